#!/usr/bin/env bash
# Runs a launcher as a Slurm job; options of sbatch come before this file, those of the launcher after its name.
#   sbatch --nodes=4 --gpus-per-node=8 scripts/slurm.sh scripts/train_joint_ytvos.sh [OPTIONS]
# A job that is requeued goes on from its last checkpoint.
#SBATCH --job-name=referformer
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=40
#SBATCH --time=72:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail
(($# >= 1)) && [[ -x $1 ]] || { echo "slurm.sh: give one of scripts/train_*.sh or scripts/test_*.sh" >&2 && exit 1; }
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export NODES=$SLURM_JOB_NUM_NODES MASTER_ADDR=$first LAUNCH_ID=$SLURM_JOB_ID
export GPUS=${GPUS:-${SLURM_GPUS_ON_NODE:-}} MASTER_PORT=${MASTER_PORT:-$((10000 + SLURM_JOB_ID % 50000))}
launcher=("$@")
[[ $(basename "$1") == train_* ]] && launcher=("$1" --train.resume auto "${@:2}")
# srun does not take over the job's processors by itself, and each machine would get one; where one fails, all end
processors=${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}
srun --ntasks="$NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 $processors "${launcher[@]}"
