#!/usr/bin/env bash
# Test on a slurm cluster; see usage.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]
  GPUS=4 tools/slurm_test.sh gpu s12 CONFIG work_dirs/s12/epoch_12.pth --out s12.pkl
Environment: GPUS in all (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5),
SRUN_ARGS (further options of srun, parted by blanks), PYTHON (the interpreter).
TEXT
}

if [[ $# -lt 4 ]]; then
    usage
    exit 2
fi
partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4
if [[ ! -f $config ]]; then
    echo "error: $config: no such config file" >&2
    exit 2
fi
if [[ $checkpoint != *://* && ! -f $checkpoint ]]; then
    echo "error: $checkpoint: no such checkpoint" >&2
    exit 2
fi
if ! command -v srun >/dev/null; then
    echo "error: srun not found: this is no slurm cluster; use tools/dist_test.sh" >&2
    exit 1
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -r -a srun_args <<<"${SRUN_ARGS:-}"
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}

exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" \
    --launcher slurm "$@"
