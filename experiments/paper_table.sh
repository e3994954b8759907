#!/usr/bin/env bash
# The paper's table: base, + D_QA, + D_meta, rounds 1 to 3; each direct, with self-refinement, self-consistency (five votes), both.
#   experiments/paper_table.sh CONFIG [FOLDER] [SEEDS] [further settings, as of selfevo run --set]
# On a GPU, with the files that experiments/gsm8k.yaml names:
#   experiments/paper_table.sh experiments/gsm8k.yaml runs/gsm8k-smollm2
#   experiments/paper_table.sh experiments/gsm8k.yaml runs/gsm8k-gemma3 0,1,2 model=google/gemma-3-270m-it
#   experiments/paper_table.sh experiments/gsm8k.yaml runs/gsm8k-7b 0,1,2 model=Qwen/Qwen2.5-7B trainer.lora={} \
#     trainer.gradient_checkpointing=true trainer.per_device_train_batch_size=8 engine.kind=vllm
# On a CPU, some two hours a seed:
#   selfevo demo --write-config runs/demo.yaml && experiments/paper_table.sh runs/demo.yaml runs/paper
set -euo pipefail
cd "$(dirname "$0")/.."
config=${1:?give a configuration}
folder=${2:-runs/paper}
seeds=${3:-0,1,2}
shift $(($# < 3 ? $# : 3))
runs=()
for seed in ${seeds//,/ }; do
  runs+=("$folder/seed$seed")
  .venv/bin/selfevo run "$config" --set seed="$seed" --set output="$folder/seed$seed" --set evaluation.consistency=5 "${@/#/--set=}" \
    || [ $? = 7 ] # alarms are in its results
done
.venv/bin/python experiments/summarise.py "${runs[@]}"
