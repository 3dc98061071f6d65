#!/usr/bin/env bash
# Finetuning on MeViS from the pretraining: 8 clips a step, as on Ref-YouTube-VOS.
#   [GPUS=n] [NODES=n] ./scripts/train_finetune_mevis.sh [OPTIONS OF main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
train configs/mevis_finetune_r50.yaml 8 "$@"
