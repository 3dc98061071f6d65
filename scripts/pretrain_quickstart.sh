#!/usr/bin/env bash
# Makes configs/quickstart_weights.pth, the weights that the quickstart finetunes, from nothing but a seed:
# 4,000 generated images, an epoch at a time through configs/quickstart_pretrain.yaml, 2,000 more with sentences about
# nothing, then the weights alone.
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
# What things look like first, then where they are.
"$python" main.py "${configs[@]}" --model.position_in_content 0 --train.seed 0 \
    --train.init_checkpoint null --train.output_dir runs/quickstart_appearance --train.resume auto \
    --optim.epochs 2 --optim.lr_drops [] --optim.warmup_steps 200 \
    --optim.text_encoder_lr 1.5e-4 --loss.class_weight 2 "$@"
"$python" main.py "${configs[@]}" --train.resume auto "$@"
# Then that a sentence can be about nothing, once at a fraction of the rate and once at a fraction of that: half of the
# added sentences have a shape and a colour which are there, but not together. The shipped weights went through these two
# stages later than through the first two, and on one thread.
absent() { # NAME, SEED and NUMBER of images, START, RATE, OPTIONS
    local name=$1 seed=$2 number=$3 start=$4 rate=$5
    shift 5
    if [[ ! -e data/$name/generated.json ]]; then
        "$python" -m datasets.shapes ytvos "data/$name" --num_videos "$number" --num_valid_videos 100 --num_frames 1 \
            --num_absent 4 --seed "$seed"
    fi
    "$python" main.py "${configs[@]}" --data.root "data/$name" --data.absent_share 0.35 --train.resume auto \
        --train.init_checkpoint "runs/$start/checkpoint.pth" --train.output_dir "runs/$name" --train.eval_every_epochs 0 \
        --test.window 36 \
        --optim.epochs 1 --optim.lr_drops [] --optim.lr "$rate" --optim.backbone_lr "$rate" \
        --optim.text_encoder_lr "$rate" "$@"
}
absent quickstart_absent 2000 1500 quickstart_pretrain 2e-4 --train.seed 1 --optim.warmup_steps 100 "$@"
absent quickstart_absent_last 3000 500 quickstart_absent 3e-5 --train.seed 2 --optim.warmup_steps 20 "$@"
"$python" scripts/export_weights.py runs/quickstart_absent_last/checkpoint.pth configs/quickstart_weights.pth
# Below which scores there is no such object, found on other videos.
if [[ ! -e data/shapes_absent/generated.json ]]; then
    "$python" -m datasets.shapes ytvos data/shapes_absent --num_videos 50 --num_valid_videos 30 --num_absent 4 --seed 7
fi
"$python" scripts/calibrate_presence.py --checkpoint configs/quickstart_weights.pth --data_root data/shapes_absent --write
