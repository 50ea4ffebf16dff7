#!/usr/bin/env bash
# Train on several GPUs, or with several processes on a CPU; see usage.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
  tools/dist_train.sh configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py 8
GPUS is the number of processes on this machine. Without GPUs they run on the CPU.
More machines: call it on each with NNODES (machines), NODE_RANK (0, 1, ...),
MASTER_ADDR (the first machine) and PORT (free there) set. PYTHON: the interpreter.
MAX_RESTARTS=3 starts all processes anew, up to 3 times, when one is lost; they go on
from the last checkpoint. SIGTERM or SIGUSR1: all save after the same iteration and
the exit code is 75; start again with --resume auto.
TEXT
}

if [[ $# -lt 2 ]]; then
    usage
    exit 2
fi
config=$1
gpus=$2
shift 2

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/launching.sh"
check_config "$config"
share_cores "$gpus"

nodes=${NNODES:-1}
address=${MASTER_ADDR:-127.0.0.1}
port=${PORT:-29500}
launch=(--nnodes="$nodes" --node_rank="${NODE_RANK:-0}")
launch+=(--master_addr="$address" --master_port="$port")
if [[ ${MAX_RESTARTS:-0} != 0 ]]; then
    # Otherwise processes meet at the addresses of those that are gone.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    launch+=(--max_restarts="$MAX_RESTARTS" --rdzv_backend=c10d)
    launch+=(--rdzv_endpoint="$address:$port" --rdzv_id="${JOB_ID:-mmpoolformer}")
    # Otherwise a first machine whose port is taken waits for whoever has it.
    launch+=(--rdzv_conf="is_host=$((${NODE_RANK:-0} == 0))")
    if [[ $nodes == 1 ]]; then
        launch+=(--local_addr="$address")
    fi
fi

# A mistake is told before all processes have started, which takes long.
if [[ $gpus != 1 && " $* " != *" --no-check "* ]]; then
    launch=(--check-first "${launch[@]}")
    set -- "$@" --no-check
fi

exec "${PYTHON:-python}" -m mmpoolformer.engine.torchrun \
    "${launch[@]}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
