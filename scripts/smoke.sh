#!/usr/bin/env bash
# The whole way in about a minute: the quickstart with a tiny benchmark and a tiny model, then checks of what it left.
# The model learns next to nothing; what is checked is that every program runs and reads what the one before it wrote.
#
#   ./scripts/smoke.sh [FOLDER]          FOLDER is replaced (runs/smoke)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-runs/smoke}
python=${VENV:-.venv}/bin/python
export QUICKSTART_CONFIG=configs/smoke.yaml QUICKSTART_DIR=$folder
export OMP_NUM_THREADS=1 # so small a model is fastest on one
export QUICKSTART_VIDEOS=4 QUICKSTART_VALID_VIDEOS=2 QUICKSTART_FRAMES=6

rm -rf "$folder"
./scripts/quickstart.sh

"$python" - "$folder" <<'END'
import json, pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
score = json.loads((folder / "score.txt").read_text().splitlines()[-1])
meta = json.loads((folder / "data/meta_expressions/valid/meta_expressions.json").read_text())["videos"]
wanted = {
    f"Annotations/{video}/{expression}/{frame}.png"
    for video, entry in meta.items() for expression in entry["expressions"] for frame in entry["frames"]
}
assert all(0 < score[key] < 1 for key in ("J", "F", "J&F")), score
assert score["num_expressions"] == sum(len(entry["expressions"]) for entry in meta.values()), score
assert set(zipfile.ZipFile(folder / "results/submission.zip").namelist()) == wanted
records = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
assert [record["epoch"] for record in records] == list(range(len(records))), records
END

echo "smoke: evaluating the checkpoint again gives what the training saw"
"$python" main.py --train.evaluate_only "$folder/run/checkpoint.pth" --data.root "$folder/data" \
    | tail -n 1 >"$folder/evaluation.json"
"$python" - "$folder" <<'END'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
seen = json.loads((folder / "run/log.jsonl").read_text().splitlines()[-1])["eval"]
again = json.loads((folder / "evaluation.json").read_text())
scored = json.loads((folder / "score.txt").read_text().splitlines()[-1])
for name in ("J", "F", "J&F"):
    assert abs(seen[name] - again[name]) < 1e-6, (name, seen, again)
    assert abs(seen[name] - scored[name]) < 1e-3, (name, seen, scored)
END
echo "smoke: all is well"
