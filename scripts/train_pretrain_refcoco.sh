#!/usr/bin/env bash
# Pretraining on the images of RefCOCO, RefCOCO+ and RefCOCOg: 16 images a step (published: 8 GPUs with 2 each).
#   [GPUS=n] [NODES=n] ./scripts/train_pretrain_refcoco.sh [OPTIONS OF main.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
train configs/pretrain_refcoco_r50.yaml 16 "$@"
