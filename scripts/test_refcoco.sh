#!/usr/bin/env bash
# Scores of a checkpoint on every split of RefCOCO, RefCOCO+ and RefCOCOg.
#   [GPUS=n] [NODES=n] ./scripts/test_refcoco.sh CHECKPOINT DATA_ROOT [OPTIONS OF eval_refcoco.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
(($# >= 2)) || fail "give a checkpoint and the folder that scripts/prepare_refcoco.py prepared, data/coco"
parallel eval_refcoco.py --checkpoint "$1" --data_root "$2" "${@:3}"
