#!/usr/bin/env bash
# The demo with seeds 0, 1 and 2, and the tables of docs/results/demo.md:
#   experiments/demo_seeds.sh [FOLDER] [further arguments of selfevo demo, such as --full]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-runs}
shift $(($# > 0))
make install
for seed in 0 1 2; do
  .venv/bin/selfevo demo "$@" --seed "$seed" --output "$folder/demo-seed$seed" || [ $? = 7 ] # alarms are in its results
done
.venv/bin/python experiments/summarise.py "$folder"/demo-seed{0,1,2}
