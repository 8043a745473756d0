#!/usr/bin/env bash
# Train on several machines of a Slurm cluster.
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/launch_slurm.sh zero2_nodes my.yaml --out runs/my
#
# The first word is a profile of recipes/accelerate (or a file), the rest goes to `ufo-tune train`. Slurm's signal
# before the end of the time makes the run save and end (the launcher says 1 of that, whatever the run said); a job that
# Slurm requeues goes on by itself, another one with the same line and --resume. --out must be on a shared folder.
#SBATCH --job-name=ufo-tune
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@180
#SBATCH --requeue
set -euo pipefail

profile=${1:?"give a profile, such as zero2_nodes, then the recipe and options of ufo-tune train"}
shift
# From the package: where Slurm runs a copy of this file, nothing lies beside it.
shipped=$(python -c 'from ufo_tune import resources; print(resources.folder("recipes") / "accelerate")')
[ -f "$profile" ] || profile="$shipped/$profile.yaml"
[ -f "$profile" ] || { echo "error: no such profile (got $profile); ls $shipped" >&2; exit 2; }

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=${hosts%%$'\n'*} # not by head: it leaves a long list with a broken pipe, which ends the script
gpus=${SLURM_GPUS_ON_NODE:-8}
port=${MASTER_PORT:-29500}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
# Since 22.05 srun does not take over --cpus-per-task: everything of a machine would share one core.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-32}
# How long the launcher waits for processes that save before it kills them; less than what --signal leaves.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-170}
[ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || set -- "$@" --resume # requeued: the same line starts again

# exec: the signal reaches the launcher, which passes it on to the processes of training.
exec srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$0" \
  --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * '"$gpus"')) --machine_rank "$SLURM_NODEID" \
  --main_process_ip '"$host"' --main_process_port '"$port"' -m ufo_tune train "$@"' "$profile" "$@"
