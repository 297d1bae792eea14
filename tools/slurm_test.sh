#!/usr/bin/env bash
# Evaluates on a Slurm cluster, through srun.
#
#   GPUS=8 tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT
#
# Environment: GPUS (default 8, over all nodes), GPUS_PER_NODE (8, or GPUS where that is less), CPUS_PER_TASK (5),
# PORT (29500), SRUN_ARGS (further arguments of srun, e.g. "--time 8:00:00").
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: $0 PARTITION JOB CONFIG CHECKPOINT [arguments of tools/test.py]" >&2
    exit 2
fi
partition=$1
job=$2
config=$3
checkpoint=$4
shift 4

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -r -a extra <<< "${SRUN_ARGS:-}"
export MASTER_PORT="${PORT:-29500}"

exec srun \
    --partition "$partition" \
    --job-name "$job" \
    --ntasks "$gpus" \
    --ntasks-per-node "$per_node" \
    --gres "gpu:$per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${extra[@]+"${extra[@]}"} \
    "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/test.py" "$config" "$checkpoint" --launcher slurm "$@"
