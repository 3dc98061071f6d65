#!/usr/bin/env bash
# Masks of Ref-DAVIS17 by a Ref-YouTube-VOS checkpoint, without finetuning, and their scores.
#   [GPUS=n] [NODES=n] ./scripts/test_davis.sh CHECKPOINT DATA_ROOT OUTPUT_DIR [OPTIONS OF inference_davis.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
(($# >= 3)) || fail "give a checkpoint, the folder that scripts/prepare_davis.py prepared, and one for the results"
(parallel inference_davis.py --checkpoint "$1" --data_root "$2" --output_dir "$3" "${@:4}") # it does not return
if [[ ${NODE_RANK:-${SLURM_NODEID:-0}} == 0 ]]; then # one machine scores what all have written
    "$python" scripts/eval_davis.py --results "$3" --data_root "$2"
fi
