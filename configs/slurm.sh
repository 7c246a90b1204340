#!/usr/bin/env bash
# One node of a Slurm cluster: sbatch configs/slurm.sh [CONFIG]. Not run on a cluster yet.
#SBATCH --job-name=slds
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
# Five minutes before its time is over the job gets SIGTERM: slds saves within the step and ends with 143; the requeued
# job goes on from there.
set -uo pipefail
config=${1:-configs/ipst/slds/sft_liger_peft.yaml}
exec srun slds train --config "$config" --num-processes "${SLURM_GPUS_ON_NODE:-1}"
