#!/usr/bin/env bash
# What a CUDA device has to show, in some ten minutes: tests, the engine against generate, a training step and a round
# against the naive ones, and the whole demo.
#   experiments/gpu.sh FOLDER [GSM8K]     FOLDER gets the logs and figures; GSM8K is the file train.jsonl
# PYTHON=python3 takes another Python than .venv/bin/python. Without a CUDA device it runs the same steps on the CPU, with
# SMALL=1 on few rows.
set -uo pipefail
folder=$(mkdir -p "${1:?give a folder}" && cd "$1" && pwd)
data=${2:+--path $(realpath "$2")}
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ "${SMALL:-}" ]; then
  rows=(--prompts 8 --repeats 1 --max-new-tokens 16) steps=(--trajectories 8 --repeats 1) round=(--trajectories 8) demo=(--smoke)
else
  rows=(--prompts 512 --batch-size 512 --kv-cache-gib 16 --repeats 3) steps=(--trajectories 256 --repeats 3) round=(--prompts 256) demo=()
fi
failed=0
step() { # NAME COMMAND...
  local name=$1 begun=$SECONDS status=0
  shift
  "$@" >"$folder/$name.log" 2>&1 || status=$?
  [ $status = 0 ] || [ $status = 7 ] || failed=1 # 7: alarms, which are in the results
  echo "$name: exit code $status, $((SECONDS - begun)) s" | tee -a "$folder/steps.txt"
}
: >"$folder/steps.txt"
mapfile -t tests < <(grep -rl --include=*.py "pytest.mark.gpu" tests | grep -v conftest) # the others may need more packages
step tests "$python" -m pytest -m gpu -p no:cacheprovider "${tests[@]}"
# shellcheck disable=SC2086
step trajectories "$python" benchmarks/trajectories.py "${rows[@]}" $data --json "$folder/trajectories.json"
step training "$python" benchmarks/training.py "${steps[@]}" --json "$folder/training.json"
step round "$python" benchmarks/round.py "${round[@]}" "${rows[@]:0:2}" --repeats 1 --json "$folder/round.json"
step demo "$python" -m selfevo demo "${demo[@]}" --seed 100 --output "$folder/demo"
cp "$folder/demo/results.json" "$folder/demo.json" 2>/dev/null
exit $failed
