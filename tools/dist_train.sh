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
TEXT
}

if [[ $# -lt 2 ]]; then
    usage
    exit 2
fi
config=$1
gpus=$2
shift 2
if [[ ! -f $config ]]; then
    echo "error: $config: no such config file" >&2
    exit 2
fi
if [[ ! $gpus =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS is '$gpus': give a number from 1" >&2
    exit 2
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
threads=$((cores / gpus > 0 ? cores / gpus : 1))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}

exec "${PYTHON:-python}" -m mmpoolformer.engine.processes \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
