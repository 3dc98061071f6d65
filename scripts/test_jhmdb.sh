#!/usr/bin/env bash
# Scores of an A2D-Sentences checkpoint on JHMDB-Sentences, without finetuning.
#   [GPUS=n] [NODES=n] ./scripts/test_jhmdb.sh CHECKPOINT DATA_ROOT [OPTIONS OF eval_a2d.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
(($# >= 2)) || fail "give a checkpoint and the folder that scripts/prepare_jhmdb.py prepared, data/jhmdb_sentences"
parallel eval_a2d.py --dataset jhmdb --checkpoint "$1" --data_root "$2" "${@:3}"
