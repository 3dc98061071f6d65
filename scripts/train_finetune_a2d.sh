#!/usr/bin/env bash
# Finetuning on A2D-Sentences from the pretraining: 16 clips a step (published: 8 GPUs with 2 each).
#   [GPUS=n] [NODES=n] ./scripts/train_finetune_a2d.sh [OPTIONS OF main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
train configs/a2d_finetune.yaml 16 "$@"
