# What dist_train.sh, dist_test.sh, slurm_train.sh and slurm_test.sh share; they read
# it with `source` after setting `tools`, the folder that it lies in.

export PYTHONPATH=$tools/..${PYTHONPATH:+:$PYTHONPATH}

fail() { # STATUS MESSAGE
    echo "error: $2" >&2
    exit "$1"
}

check_config() { # FILE
    [[ -f $1 ]] || fail 2 "$1: no such config file"
}

check_checkpoint() { # FILE_OR_URL
    [[ $1 == *://* || -f $1 ]] || fail 2 "$1: no such checkpoint"
}

share_cores() { # PROCESSES
    [[ $1 =~ ^[1-9][0-9]*$ ]] || fail 2 "GPUS is '$1': give a number from 1"
    local cores threads
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    threads=$((cores / $1 > 0 ? cores / $1 : 1))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
    export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
}

# Sets `resources` and `srun_args` from GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS.
read_slurm_options() { # PARTITION JOB_NAME INSTEAD
    command -v srun >/dev/null ||
        fail 1 "srun not found: this is no slurm cluster; use tools/$3"
    local gpus=${GPUS:-8}
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    resources=(
        --partition="$1"
        --job-name="$2"
        --gres="gpu:$gpus_per_node"
        --ntasks="$gpus"
        --ntasks-per-node="$gpus_per_node"
        --cpus-per-task="${CPUS_PER_TASK:-5}"
    )
    read -r -a srun_args <<<"${SRUN_ARGS:-}"
}
