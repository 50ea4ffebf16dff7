#!/usr/bin/env bash
# Test on several GPUs, or with several processes on a CPU; see usage.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
  tools/dist_test.sh configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py \
      work_dirs/retinanet_poolformer_s12_fpn_1x_coco/epoch_12.pth 8
GPUS is the number of processes on this machine. Without GPUs they run on the CPU.
More machines: call it on each with NNODES (machines), NODE_RANK (0, 1, ...),
MASTER_ADDR (the first machine) and PORT (free there) set. PYTHON: the interpreter.
TEXT
}

if [[ $# -lt 3 ]]; then
    usage
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/launching.sh"
check_config "$config"
check_checkpoint "$checkpoint"
share_cores "$gpus"

exec "${PYTHON:-python}" -m mmpoolformer.engine.torchrun \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
