#!/usr/bin/env bash
# Test on a slurm cluster; see usage.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]
  GPUS=4 tools/slurm_test.sh gpu s12 CONFIG work_dirs/s12/epoch_12.pth --out s12.pkl
Environment: GPUS in all (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5),
SRUN_ARGS (further options of srun, separated by spaces), PYTHON (the interpreter).
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

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/launching.sh"
check_config "$config"
check_checkpoint "$checkpoint"
read_slurm_options "$partition" "$job_name" dist_test.sh

exec srun \
    "${resources[@]}" --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$tools/test.py" "$config" "$checkpoint" \
    --launcher slurm "$@"
