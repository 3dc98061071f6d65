"""Time and memory of whole videos: what a second sentence costs, and whether memory grows with the length.

    python scripts/benchmark_video.py --num_sentences 1 4               seconds of 300 frames, sentence counts in turn
    python scripts/benchmark_video.py --num_frames 300 3000             peak memory of each length

Each run is a process of its own that reads an H.264 file of 360 x 640 and writes overlay, masks, JSON and sheet:
`total_s` without starting Python and loading the model, `process_s` with them, as a user waits for it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from datasets.shapes_scene import VideoSettings
from datasets.shapes_video import generate_video
from util.failures import told_in_one_line
from util.video_writer import VideoWriter

ROOT = Path(__file__).resolve().parents[1]
RATE = 25.0
SENTENCES = (  # of what is to be seen in the clip, so that there is something to draw
    "the cyan square",
    "the little orange square staying in place",
    "the orange square going right",
    "the purple square",
)


def write_clip(path: Path, num_frames: int, size: tuple[int, int]) -> None:
    """A generated video that runs to and fro until it is long enough."""
    settings = VideoSettings(num_frames=36, height=size[0], width=size[1])
    frames = generate_video(np.random.default_rng(0), settings, 0).frames
    order = [*range(36), *range(34, 0, -1)]
    with VideoWriter(path, RATE) as writer:
        for t in range(num_frames):
            writer.write(frames[order[t % len(order)]], t / RATE)


def measure(checkpoint: Path, clip: Path, num_sentences: int, output: Path, device: str) -> dict[str, float]:
    """Seconds of segmenting and of writing, without loading the model, and the peak memory of this process in MB."""
    from models.predictor import Predictor

    # Every sentence has its masks drawn and written, whatever the model thinks of it.
    thresholds = {"presence_threshold": 0.0, "frame_presence_threshold": 0.0}
    predictor = Predictor.from_checkpoint(checkpoint, device=device, **thresholds)
    began = time.perf_counter()
    segmentation = predictor.segment(clip, SENTENCES[:num_sentences])
    segmented = time.perf_counter()
    segmentation.save(output)
    written = time.perf_counter()
    return {
        "num_frames": len(segmentation),
        "num_sentences": num_sentences,
        "segment_s": round(segmented - began, 1),
        "write_s": round(written - segmented, 1),
        "total_s": round(written - began, 1),
        "frames_per_s": round(len(segmentation) / (written - began), 1),
        "peak_MB": round(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "configs" / "quickstart_weights.pth")
    parser.add_argument("--num_frames", type=int, nargs="+", default=[300])
    parser.add_argument("--num_sentences", type=int, nargs="+", default=[1], choices=range(1, len(SENTENCES) + 1))
    parser.add_argument("--size", type=int, nargs=2, default=[360, 640], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)  # set in the process that measures
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.clip:
            result = measure(args.checkpoint, args.clip, args.num_sentences[0], Path(folder) / "out", args.device)
            print(json.dumps(result))
            return
        for num_frames in args.num_frames:
            clip = Path(folder) / f"{num_frames}.mp4"
            write_clip(clip, num_frames, tuple(args.size))
            for num_sentences in args.num_sentences:
                command = [sys.executable, __file__, "--clip", str(clip), "--num_sentences", str(num_sentences)]
                command += ["--checkpoint", str(args.checkpoint), "--device", args.device]
                began = time.perf_counter()
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                result = json.loads(output) | {"process_s": round(time.perf_counter() - began, 1)}
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    with told_in_one_line():
        main()
