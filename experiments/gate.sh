#!/usr/bin/env bash
# A gate ends the rounds of a run that does not improve, and keeps the best model: experiments/gate.sh [FOLDER] [SEED]
# Twice the same run of up to six rounds, gated on 150 problems of the demo: once its unlabelled prompts are instructions, which
# teach it nothing about sums, once they are sums.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs/gate}
seed=${2:-0}
mkdir -p "$folder"
[ -f "$folder/demo.yaml" ] || .venv/bin/selfevo demo --write-config "$folder/demo.yaml"
for pool in instructions demo; do
  .venv/bin/selfevo run "$folder/demo.yaml" --no-check --set seed="$seed" --set output="$folder/$pool-seed$seed" \
    --set prompts.task.name=$pool --set prompts.count=360 --set rounds=6 --set trainer.round_learning_rate=2e-4 \
    --set 'gate={task: {name: demo}, count: 150, patience: 2}' --set 'evaluation={task: {name: demo}, count: 100, models: [meta, rounds]}' \
    || [ $? = 7 ] # alarms are in its results
  .venv/bin/selfevo show "$folder/$pool-seed$seed"
done
