#!/usr/bin/env bash
# Finetuning on Ref-YouTube-VOS from the pretraining: 8 clips a step (published: 8 GPUs with 1 each).
#   [GPUS=n] [NODES=n] ./scripts/train_finetune_ytvos.sh [OPTIONS OF main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
train configs/ytvos_finetune_r50.yaml 8 "$@"
