#!/usr/bin/env bash
# Training on Ref-YouTube-VOS and pseudo clips of RefCOCO/+/g: 64 clips a step (published: 32 GPUs with 2 each).
#   [GPUS=n] [NODES=n] ./scripts/train_joint_ytvos.sh [OPTIONS OF main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
train configs/joint_ytvos_r50.yaml 64 "$@"
