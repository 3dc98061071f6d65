#!/usr/bin/env bash
# Makes the virtual environment that everything else uses, and builds the compiled attention op. Run again, it only
# does what has changed since: a second run takes a moment.
#
#   ./scripts/setup.sh
#
#   VENV      folder of the virtual environment     (.venv)
#   PYTHON    the Python it is made with            (python3, then python; 3.11 or later)
#   CXX       the C++ compiler                      (c++, then g++, then clang++)
#   SKIP_OPS=1 does not build the op; FORCE_CUDA=1 and TORCH_CUDA_ARCH_LIST build it for GPUs on a machine without one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
op_stamp=build/op_stamp op_log=build/op.log

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2 && exit 1; }

hash_of() { # STRING FILE...: one hash of all of them
    "$venv/bin/python" - "$@" <<'END'
import hashlib, pathlib, sys
total = hashlib.sha256(sys.argv[1].encode())
for name in sys.argv[2:]:
    total.update(name.encode() + b"\0" + pathlib.Path(name).read_bytes())
print(total.hexdigest())
END
}

make_environment() {
    [[ -x $venv/bin/python ]] && return
    local python
    python=${PYTHON:-$(command -v python3 || command -v python || true)}
    [[ -n $python ]] || fail "no Python found; install Python 3.11 or later, or name it in PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is $("$python" --version 2>&1); Python 3.11 or later is needed, name one in PYTHON"
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" ||
        fail "could not make $venv; on Debian and Ubuntu install the package python3-venv, then remove $venv and try again"
}

install_requirements() {
    local stamp=$venv/requirements_stamp hash
    hash=$(hash_of "$("$venv/bin/python" --version)" requirements.txt)
    [[ -f $stamp && $(<"$stamp") == "$hash" ]] && return
    say "installing requirements.txt (PyTorch is large: minutes the first time)"
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet -r requirements.txt ||
        fail "pip could not install requirements.txt; its message is above"
    echo "$hash" >"$stamp"
}

build_op() {
    [[ -f ops/setup.py ]] || return 0
    [[ ${SKIP_OPS:-} == 1 ]] && say "SKIP_OPS=1: the compiled attention op is not built" && return
    local compiler hash began=$SECONDS
    compiler=${CXX:-$(command -v c++ || command -v g++ || command -v clang++ || true)}
    if [[ -z $compiler ]]; then
        say "no C++ compiler found: going on without the compiled attention op, which is slower and gives the same results"
        return
    fi
    hash=$(hash_of "$("$compiler" --version | head -n 1) $("$venv/bin/python" -c 'import sys; print(sys.version)') \
        $("$venv/bin/python" -c 'from importlib.metadata import version; print(version("torch"))') \
        ${FORCE_CUDA:-} ${FORCE_CPU:-} ${TORCH_CUDA_ARCH_LIST:-} ${CUDA_HOME:-}" ops/setup.py ops/csrc/*)
    case $(cat "$op_stamp" 2>/dev/null || true) in
        "built $hash") compgen -G 'ops/*.so' >/dev/null && return ;;
        "failed $hash")
            say "the compiled attention op did not build the last time (see $op_log; remove $op_stamp to try again)"
            return
            ;;
    esac
    say "building the compiled attention op with $compiler"
    mkdir -p build
    rm -f ops/*.so "$op_stamp"
    if PATH="$PWD/$venv/bin:$venv/bin:$PATH" CXX=$compiler "$venv/bin/python" ops/setup.py build_ext --inplace >"$op_log" 2>&1; then
        echo "built $hash" >"$op_stamp"
        say "built in $((SECONDS - began)) s"
        grep 'has no OpenMP' "$op_log" | sed 's/^/setup: /' || true
    else
        echo "failed $hash" >"$op_stamp"
        tail -n 5 "$op_log"
        say "the compiled attention op did not build (see $op_log): going on without it, slower and with the same results"
    fi
}

make_environment
install_requirements
build_op
say "ready: source $venv/bin/activate"
