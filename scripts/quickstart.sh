#!/usr/bin/env bash
# The whole way on generated data: set up, write the benchmark, train, infer, check and zip, score, draw.
#
#   ./scripts/quickstart.sh [OPTIONS OF main.py]          e.g. --train.device cpu
#
#   QUICKSTART_DIR      where everything goes                     (runs/quickstart)
#   QUICKSTART_CONFIG   the experiment                            (configs/quickstart.yaml)
#   QUICKSTART_VIDEOS, QUICKSTART_VALID_VIDEOS, QUICKSTART_FRAMES   size of the benchmark
#
# Run again, it reuses the set-up. An interrupted training goes on where it stopped; a finished one is kept in
# run/previous_<n> and a new one begins.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=${QUICKSTART_CONFIG:-configs/quickstart.yaml}
folder=${QUICKSTART_DIR:-runs/quickstart}
num_videos=${QUICKSTART_VIDEOS:-150}
num_valid_videos=${QUICKSTART_VALID_VIDEOS:-40}
num_frames=${QUICKSTART_FRAMES:-12}

python=${VENV:-.venv}/bin/python
data=$folder/data run=$folder/run results=$folder/results pictures=$folder/pictures done_file=$folder/training_done
stages=() began=$SECONDS

stage() { # NAME COMMAND...: run a command under a heading, and keep its time
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    stages+=("$(printf '%-12s %5d s' "$name" $((SECONDS - start)))")
}

# A stopped script would leave its training running alone: both signals go to it (a background process ignores SIGINT),
# it saves, and the script ends after it.
main_py() {
    local pid status=0 stopped=0
    "$python" main.py "$@" &
    pid=$!
    trap 'stopped=130; kill -TERM "$pid"' INT
    trap 'stopped=143; kill -TERM "$pid"' TERM
    wait "$pid" || status=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal has ended the waiting, not the training
        status=0
        wait "$pid" || status=$?
    done
    trap - INT TERM
    ((status == 143 && stopped)) && status=$stopped
    ((status != 130 && status != 143)) || echo "run this script again to go on" >&2
    return "$status"
}

train() {
    local resume=()
    if [[ -e $done_file ]]; then
        echo "the last training was finished; a new one begins and the old one is kept in $run/previous_<n>"
        rm "$done_file"
    else
        resume=(--train.resume auto)
    fi
    main_py --config "$config" --data.root "$data" --train.output_dir "$run" ${resume[@]+"${resume[@]}"} "$@"
    touch "$done_file"
}

score() { # NAME [OPTIONS]: what it prints is kept in NAME.txt
    local name=$1
    shift
    "$python" scripts/eval_jf.py --results "$results/Annotations" --annotations "$data/valid/Annotations" \
        --meta "$data/meta_expressions/valid/meta_expressions.json" "$@" | tee "$folder/$name.txt"
}

mean() { # NAME: the J&F that `score NAME` ended with
    tail -n 1 "$folder/$1.txt" | sed -E 's/^\{"J": [^,]*, "F": [^,]*, "J&F": ([^,]*),.*/\1/' | cut -c 1-6
}

draw() {
    "$python" scripts/contact_sheet.py --results "$results/Annotations" --data_root "$data" \
        --output "$pictures/sheet.png" --gif "$pictures/result.gif"
    "$python" scripts/plot_training.py "$run" --output "$pictures/curves.png"
}

mkdir -p "$folder"
stage "set up" ./scripts/setup.sh
after_setup=$SECONDS
stage "benchmark" "$python" -m datasets.shapes ytvos "$data" --seed 0 --overwrite \
    --num_videos "$num_videos" --num_valid_videos "$num_valid_videos" --num_frames "$num_frames"
stage "train" train "$@"
stage "infer" "$python" inference_ytvos.py --checkpoint "$run/checkpoint.pth" --data_root "$data" --split valid \
    --output_dir "$results" --overwrite --visualize
stage "score" score score
stage "control" score control --permute_captions # what a model scores whose captions are those of other objects
stage "draw" draw

cat <<END

J&F $(mean score); $(mean control) with the captions of each video permuted among its objects

data                 $data
checkpoint, logs     $run/checkpoint.pth, $run/log.jsonl, tensorboard --logdir $run
submission           $results/submission.zip
scores               $results/jf.csv; captions permuted: $results/jf_permuted.csv
pictures             $pictures/sheet.png, $pictures/result.gif, $pictures/curves.png, $results/visualize/

END
printf '%s\n' "${stages[@]}"
printf '%-12s %5d s, %d s without the set-up\n' total $((SECONDS - began)) $((SECONDS - after_setup))
