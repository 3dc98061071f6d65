#!/usr/bin/env bash
# Training on Ref-YouTube-VOS from an ImageNet backbone: 8 clips a step (published: 8 GPUs with 1 each).
#   [GPUS=n] [NODES=n] ./scripts/train_scratch_ytvos.sh [OPTIONS OF main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
train configs/ytvos_scratch_r50.yaml 8 "$@"
