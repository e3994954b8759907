#!/usr/bin/env bash
# One run on two machines with eight GPUs each, on a disk that both share:
#   sbatch examples/slurm/job.sh
# Submitted again, it goes on where it was.
#SBATCH --job-name=selfevo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --output=selfevo-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
set -euo pipefail

. .venv/bin/activate
# Where the processes of a training meet: the machine that this script runs on, the first of the job.
export SELFEVO_HEAD="$(hostname):29500"
# srun takes this number from nowhere else.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
# With exec the signal of SLURM, five minutes before the time is up, reaches selfevo. It saves a checkpoint and ends.
exec selfevo run examples/slurm/config.yaml
