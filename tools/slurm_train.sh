#!/usr/bin/env bash
# Train on a slurm cluster; see usage.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
  GPUS=16 tools/slurm_train.sh gpu s12 CONFIG work_dirs/s12 --auto-scale-lr
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
work_dir=$4
shift 4
if [[ ! -f $config ]]; then
    echo "error: $config: no such config file" >&2
    exit 2
fi
if ! command -v srun >/dev/null; then
    echo "error: srun not found: this is no slurm cluster; use tools/dist_train.sh" >&2
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
    "${PYTHON:-python}" -u "$tools/train.py" "$config" \
    --work-dir "$work_dir" --launcher slurm "$@"
