#!/usr/bin/env bash
# Train on a slurm cluster; see usage.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
  GPUS=16 tools/slurm_train.sh gpu s12 CONFIG work_dirs/s12 --auto-scale-lr
  REQUEUE=1 SBATCH_ARGS=--time=4:00:00 tools/slurm_train.sh gpu s12 CONFIG work_dirs/s12
Environment: GPUS in all (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5),
SRUN_ARGS (further options of srun, separated by spaces), PYTHON (the interpreter).
REQUEUE=1 hands the job to sbatch, with SBATCH_ARGS and these options: 120 seconds
(GRACE) before its time is over, or when it is preempted, it saves, ends with code 75
and is queued again; it goes on where it was (--resume auto).
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

# In a job, slurm runs a copy of this script; MMPOOLFORMER_TOOLS is where it lay.
tools=${MMPOOLFORMER_TOOLS:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
source "$tools/launching.sh"
check_config "$config"
read_slurm_options "$partition" "$job_name" dist_train.sh
requeue=${REQUEUE:-0}
if [[ $requeue == 1 && -z ${SLURM_JOB_ID:-} ]]; then
    read -r -a sbatch_args <<<"${SBATCH_ARGS:-}"
    export MMPOOLFORMER_TOOLS=$tools
    exec sbatch "${resources[@]}" --requeue --open-mode=append \
        --signal="USR1@${GRACE:-120}" \
        ${sbatch_args[@]+"${sbatch_args[@]}"} \
        "$tools/slurm_train.sh" "$@"
fi
shift 4

command=(
    srun "${resources[@]}" --kill-on-bad-exit=1
    ${srun_args[@]+"${srun_args[@]}"}
    "${PYTHON:-python}" -u "$tools/train.py" "$config"
    --work-dir "$work_dir" --launcher slurm
)
if [[ $requeue != 1 ]]; then
    exec "${command[@]}" "$@"
fi

trap : TERM USR1 # for the tasks; this shell has to outlive them
code=0
"${command[@]}" --resume auto "$@" || code=$?
if [[ $code == 75 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
