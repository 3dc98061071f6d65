#!/usr/bin/env bash
# Makes configs/quickstart_weights.pth, the weights that the quickstart finetunes, from nothing but a seed:
# 4,000 generated images, an epoch at a time through configs/quickstart_pretrain.yaml, then the weights alone.
# An interrupted run goes on where it stopped when this is run again.
#   ./scripts/pretrain_quickstart.sh [OPTIONS OF main.py]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${VENV:-.venv}/bin/python

configs=(--config configs/quickstart.yaml --config configs/quickstart_pretrain.yaml)

./scripts/setup.sh
if [[ ! -e data/shapes_images/generated.json ]]; then
    "$python" -m datasets.shapes ytvos data/shapes_images --num_videos 4000 --num_valid_videos 50 --num_frames 1 --seed 1000
fi
# What things look like first, then where they are: the two stages that the shipped weights were made in.
"$python" main.py "${configs[@]}" --model.position_in_content 0 --train.seed 0 \
    --train.init_checkpoint null --train.output_dir runs/quickstart_appearance --train.resume auto \
    --optim.epochs 2 --optim.lr_drops [] --optim.warmup_steps 200 \
    --optim.text_encoder_lr 1.5e-4 --loss.class_weight 2 "$@"
"$python" main.py "${configs[@]}" --train.resume auto "$@"
"$python" scripts/export_weights.py runs/quickstart_pretrain/checkpoint.pth configs/quickstart_weights.pth
# Below which scores there is no such object, found on other videos.
if [[ ! -e data/shapes_absent/generated.json ]]; then
    "$python" -m datasets.shapes ytvos data/shapes_absent --num_videos 50 --num_valid_videos 30 --num_absent 4 --seed 7
fi
"$python" scripts/calibrate_presence.py --checkpoint configs/quickstart_weights.pth --data_root data/shapes_absent --write
