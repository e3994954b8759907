#!/usr/bin/env bash
# What reviewers of the paper asked, one recipe each, on the demo's problems:
#   experiments/questions.sh QUESTION [FOLDER] [SEEDS] [further arguments of selfevo ablate]
# Questions: refinement rounds stopping feedback labels policies filters preference cost
# The size is a small part of the demo's, so that a variant takes some eight minutes on one core; --set gives another,
# and a configuration of your own (CONFIG=my.yaml) another model and other problems. One process a core, each with a
# seed of its own, is a third faster than one on two: OMP_NUM_THREADS=1 taskset -c 0 experiments/questions.sh cost runs/questions 0
set -euo pipefail
cd "$(dirname "$0")/.."
question=${1:?give a question: refinement rounds stopping feedback labels policies filters preference cost}
folder=${2:-runs/questions}
seeds=${3:-0,1,2}
shift $(($# < 3 ? $# : 3))
case $question in
  refinement) only=(no-refinement answer-agreement) ;;              # 1 is refinement needed, or is self-consistency enough?
  rounds) only=(one-round) ;;                                       # 2 do several rounds beat one with all the prompts?
  stopping) only=(six-rounds) ;;                                    # 3 when to stop?
  feedback) only=(flipped-10 flipped-30 flipped-50 no-language) ;;  # 4 how good is the feedback, and how does noise hurt?
  labels) only=(labels-10 labels-20 sft-100 sft-250 sft-1000) ;;      # 5 does SFT on the same labels beat it?
  policies) only=(restart continual-latest) ;;                      # 6 is in every table: direct and refined, meta and self
  filters) only=(no-filter votes gold) ;;                           # 7 what if the judge were worse, or perfect?
  preference) only=(dpo grpo lora) ;;                               # against preference learning on the same rows
  cost) only=(self) ;;                                              # 8 self alone, with its ledger
  *) echo "no question $question" >&2; exit 2 ;;
esac
mkdir -p "$folder"
config=${CONFIG:-$folder/demo.yaml}
[ -f "$config" ] || .venv/bin/selfevo demo --write-config "$config"
.venv/bin/selfevo ablate "$config" "${only[@]/#/--only=}" --seeds "$seeds" --output "$folder/runs" \
  --set corpus.labels=40 --set prompts.count=180 --set evaluation.count=100 \
  --set trainer.per_device_train_batch_size=4 "$@"
