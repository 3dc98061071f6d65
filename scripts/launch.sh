# Sourced by the launchers train_*.sh and test_*.sh, which say what they run; this file says on how many processes.
#
#   GPUS          processes on this machine, one for each GPU         (as many as there are GPUs, 1 without any)
#   NODES         machines; the same command is started on each       (1)
#   MASTER_ADDR   name or address of the first machine, when there are several
#   MASTER_PORT   a free port of it                                   (29500)
#   NODE_RANK     0 on the first machine, other numbers on the others (found out by MASTER_ADDR)
#   VENV          folder of the virtual environment                   (.venv)
#
# On a Slurm cluster, scripts/slurm.sh sets all of these.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${VENV:-.venv}/bin/python
nodes=${NODES:-1}

fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2 && exit 1; }

count_gpus() {
    local count
    count=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)
    echo $((count > 0 ? count : 1))
}

gpus=${GPUS:-$(count_gpus)}
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS is '$gpus'; it must be a positive number"
[[ ${NODE_RANK:-0} =~ ^[0-9]+$ ]] || fail "NODE_RANK is '$NODE_RANK'; it must be a number"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NODES is '$nodes'; it must be a positive number"
[[ -x $python ]] || fail "there is no $python; run ./scripts/setup.sh, or name its folder in VENV"

# Options of torchrun by which the machines meet. By itself it compares MASTER_ADDR with this machine's own name, which an
# address never equals, and gives the others that name, which they may not know; all would wait for one another.
meeting_place() {
    local rank=${NODE_RANK:-${SLURM_NODEID:-}}
    "$python" -c 'import contextlib, ipaddress, socket, sys
host, rank, is_first = sys.argv[1], sys.argv[2], None
with contextlib.suppress(OSError):  # the name is not known: torchrun says so
    family, kind, *_, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # chooses an address of this machine; sends nothing
        own = probe.getsockname()[0]
    if not ipaddress.ip_address(own).is_loopback:
        print("--local_addr", own)
        is_first = own == address[0]
if rank:
    is_first = int(rank) == 0
if is_first is not None:
    print("--rdzv_conf", f"is_host={int(is_first)}")' "$MASTER_ADDR" "$rank"
}

parallel() { # PROGRAM [OPTIONS]: as many processes as asked for, on this machine as part of all; it does not return
    # One process needs no torchrun, whose report of a failure buries the process's own line.
    ((gpus * nodes > 1)) || exec "$python" "$@"
    local where=(--standalone)
    if ((nodes > 1)); then
        [[ -n ${MASTER_ADDR:-} ]] || fail "NODES is $nodes; name the first machine in MASTER_ADDR, on all of them"
        where=(--nnodes "$nodes" --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:${MASTER_PORT:-29500}")
        where+=(--rdzv_id "${LAUNCH_ID:-referformer}")
        local options
        options=$(meeting_place)
        where+=($options)
    fi
    # in place of the shell, so that it gets the signals that stop a job, and has its time to save
    exec "$python" -m torch.distributed.run "${where[@]}" --nproc_per_node "$gpus" "$@"
}

# train CONFIG CLIPS [OPTIONS]: main.py with the published number of clips a step, by accumulating gradients where there
# are fewer processes than published. The options and their files may change the clips of a process.
train() {
    local config=$1 clips=$2 found batch steps at_once
    shift 2
    case " $* " in *" --help "* | *" --print_config"*) exec "$python" main.py --config "$config" "$@" ;; esac
    found=$("$python" -c 'import sys; from util.cli import parse; optim = parse(sys.argv[1:]).optim
print(optim.batch_size, optim.accumulate_steps)' --config "$config" "$@")
    read -r batch steps <<<"$found"
    at_once=$((gpus * nodes * batch))
    if [[ $steps == 1 && " $* " != *" --optim.accumulate_steps"* ]]; then
        ((clips % at_once == 0)) || fail "$gpus GPUS x $nodes NODES x optim.batch_size $batch are $at_once clips at once," \
            "and the $clips of a published step are no multiple of them; change one, or set --optim.accumulate_steps"
        set -- --optim.accumulate_steps $((clips / at_once)) "$@"
    fi
    parallel main.py --config "$config" "$@"
}
