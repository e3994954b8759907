#!/usr/bin/env bash
# What reviewers of the paper asked, one recipe each, on the demo's problems:
#   experiments/questions.sh QUESTION [FOLDER] [SEEDS] [further arguments of selfevo ablate]
# It is the demo with a quarter of its prompts, so that a variant takes some 3 to 29 minutes on one core, and with rounds at 2e-4,
# the demo's rate until `half-rate` was measured; --set gives another size or rate, and a configuration of your own
# (CONFIG=my.yaml) another model and other problems. One process a core, each with a
# seed of its own, is a third faster than one on two (write the configuration first, with `selfevo demo --write-config`):
#   OMP_NUM_THREADS=1 taskset -c 0 experiments/questions.sh cost runs/questions 0
set -euo pipefail
cd "$(dirname "$0")/.."
questions="questions: refinement rounds stopping feedback labels inference filters cost policies preference"
question=${1:?$questions}
folder=${2:-runs/questions}
seeds=${3:-0,1,2}
shift $(($# < 3 ? $# : 3))
case $question in
  # 1 is it needed, or is self-consistency enough? With a quarter of the prompts `self` keeps as many rows as without refinement
  refinement) only=(no-refinement self-consistency answer-agreement prompts-45) ;;
  rounds) only=(one-round) ;;                                           # 2 do several beat one with all the prompts?
  stopping) only=(six-rounds) ;;                                        # 3 when to stop?
  feedback) only=(no-language flipped-10 flipped-30 flipped-50) ;;      # 4 how good is it, and how does noise hurt?
  labels) only=(labels-20 labels-40 sft-160 sft-320 sft-640) ;;         # 5 does SFT on the same labels beat it?
  inference) only=(consistency) ;;                                      # 6 from training, or from refining at inference?
  filters) only=(no-filter gold votes) ;;                               # 7 what if the judge were worse, or perfect?
  cost) only=(self) ;;                                                  # 8 self alone, with its ledger
  policies) only=(restart continual-latest half-rate) ;;
  preference) only=(dpo grpo lora) ;;                                   # the same rows, learnt from in other ways
  *) echo "no question $question; $questions" >&2; exit 2 ;;
esac
mkdir -p "$folder"
config=${CONFIG:-$folder/demo.yaml}
size=()
if [ -z "${CONFIG:-}" ]; then
  [ -f "$config" ] || .venv/bin/selfevo demo --write-config "$config"
  size=(--set prompts.count=180 --set evaluation.count=100 --set trainer.round_learning_rate=2e-4)
fi
.venv/bin/selfevo ablate "$config" "${only[@]/#/--only=}" --seeds "$seeds" --output "$folder/runs" "${size[@]}" "$@"
