import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference_ytvos
from datasets.videos import VideoDataset
from inference_jobs import list_jobs
from inference_options import build_parser, load_predictor
from inference_ytvos import infer
from models.build import build_model
from models.predictor import Prediction
from tests.small_model import write_small_checkpoint
from tests.small_ytvos import change_meta, write_tree
from util.checkpoint_io import save_checkpoint
from util.config import Config, ModelConfig, TestConfig
from util.distributed import ProcessInfo
from util.masks import read_mask, write_mask
from util.presence import Presence
from util.read_ahead import read_ahead
from util.results import BackgroundWriter, ResultFolder
from util.submission import SubmissionError, VideoMasks, check_zip

REPOSITORY = Path(inference_ytvos.__file__).parent
ALONE = ProcessInfo(0, 1, torch.device("cpu"))


class FakePredictor:
    """Pixels above a threshold that depends on the caption; remembers what it was asked."""

    def __init__(self, window: int = 4) -> None:
        self.window = window
        self.presence = Presence()
        self.asked: list[tuple[list[str], int]] = []

    def track(self, windows: Iterable[torch.Tensor], captions: list[str]) -> Iterator[list[Prediction]]:
        for frames in windows:
            self.asked.append((captions, len(frames)))
            yield [self.predict(frames, caption) for caption in captions]

    @staticmethod
    def predict(frames: torch.Tensor, caption: str) -> Prediction:
        masks = frames[..., 0] > 20 + len(caption)
        scores = torch.full((len(frames),), 0.5)
        boxes = torch.tensor([4.0, 4.0, 20.0, 20.0]).expand(len(frames), 4)
        return Prediction(caption, masks, boxes, scores, 0, scores[:, None], boxes[:, None], boxes[:, None, :2])


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", "valid", num_videos=3, num_frames=6)


@pytest.fixture
def folder(tmp_path: Path) -> ResultFolder:
    return ResultFolder(tmp_path / "out")


def run(root: Path, folder: ResultFolder, predictor: FakePredictor | None = None, **options) -> FakePredictor:
    predictor = predictor or FakePredictor()
    identity = options.pop("identity", {"checkpoint": "a"})
    infer(predictor, list_jobs(VideoDataset(root, "valid")), folder, identity, ALONE, **options)
    return predictor


def test_every_frame_of_every_expression_is_written_and_zipped(data_root: Path, folder: ResultFolder) -> None:
    run(data_root, folder)
    dataset = VideoDataset(data_root, "valid")
    check_zip(folder.submission, [job.masks for job in list_jobs(dataset)])
    with zipfile.ZipFile(folder.submission) as archive:
        assert len(archive.namelist()) == 3 * 2 * 6
    for video in dataset:
        frames = torch.cat(list(video.windows(100)))
        for expression in video.expressions:
            expected = FakePredictor.predict(frames, expression.caption).masks.numpy()
            for t, name in enumerate(video.frame_names):
                mask = read_mask(folder.mask_path(video.name, expression.expression_id, name), video.size)
                assert np.array_equal(mask, expected[t])


def test_a_video_is_streamed_once_for_all_its_expressions(data_root: Path, folder: ResultFolder) -> None:
    predictor = run(data_root, folder)
    assert sorted(len(captions) for captions, _ in predictor.asked) == [2] * 6
    assert [num_frames for _, num_frames in predictor.asked] == [4, 2] * 3


def test_finished_videos_are_skipped_when_run_again(
    data_root: Path, folder: ResultFolder, capsys: pytest.CaptureFixture
) -> None:
    run(data_root, folder)
    assert "frame" in capsys.readouterr().err  # a bar
    before = folder.submission.read_bytes()
    folder.submission.unlink()
    assert run(data_root, folder).asked == []
    assert "frame" not in capsys.readouterr().err  # none where nothing is to do
    assert folder.submission.read_bytes() == before
    folder.mask_path("video1", "0", "00010").unlink()
    assert len(run(data_root, folder).asked) == 2  # both windows of one video
    assert folder.submission.read_bytes() == before


def test_a_video_whose_frames_or_captions_changed_is_done_again(data_root: Path, folder: ResultFolder) -> None:
    run(data_root, folder)
    change_meta(data_root, "valid", lambda videos: videos["video1"]["expressions"]["1"].update(exp="another thing"))
    assert [captions[1] for captions, _ in run(data_root, folder).asked] == ["another thing"] * 2
    Image.new("RGB", (64, 48)).save(data_root / "valid" / "JPEGImages" / "video2" / "00005.jpg")
    assert len(run(data_root, folder).asked) == 2


def test_an_interrupted_run_goes_on_with_the_video_it_was_at(data_root: Path, folder: ResultFolder) -> None:
    class Stopped(FakePredictor):
        def track(self, windows, captions):
            for predictions in super().track(windows, captions):
                if len(self.asked) == 4:  # in the last window of the second video
                    raise KeyboardInterrupt
                yield predictions

    with pytest.raises(KeyboardInterrupt):
        run(data_root, folder, Stopped())
    assert not folder.submission.exists()
    assert len(run(data_root, folder).asked) == 4
    whole = ResultFolder(folder.path.parent / "whole")
    run(data_root, whole)
    assert folder.submission.read_bytes() == whole.submission.read_bytes()


def test_a_video_is_marked_finished_after_its_last_mask(data_root: Path, folder: ResultFolder, monkeypatch) -> None:
    def slow_write(path: Path, mask: np.ndarray) -> None:
        time.sleep(0.005)
        write_mask(path, mask)

    def mark(self: ResultFolder, masks: VideoMasks, captions: list[str], source: str) -> None:
        marked.append(all((folder.annotations / path).is_file() for path in masks.paths()))

    marked: list[bool] = []
    monkeypatch.setattr(inference_ytvos, "write_mask", slow_write)
    monkeypatch.setattr(ResultFolder, "mark_finished", mark)
    run(data_root, folder)
    assert marked == [True] * 3


def test_results_of_another_checkpoint_are_refused_or_deleted(data_root: Path, folder: ResultFolder) -> None:
    run(data_root, folder)
    with pytest.raises(ValueError, match=r"checkpoint a -> b.*--overwrite"):
        run(data_root, folder, identity={"checkpoint": "b"})
    assert len(run(data_root, folder, identity={"checkpoint": "b"}, overwrite=True).asked) == 6
    assert run(data_root, folder, identity={"checkpoint": "b"}).asked == []


def test_a_damaged_mask_is_found_before_zipping_and_repaired_by_the_next_run(
    data_root: Path, folder: ResultFolder
) -> None:
    run(data_root, folder)
    before = folder.submission.read_bytes()
    folder.mask_path("video1", "0", "00010").write_bytes(b"damaged")
    with pytest.raises(SubmissionError, match=r"video1/0/00010\.png"):
        run(data_root, folder)
    assert not folder.submission.exists()
    run(data_root, folder)
    assert folder.submission.read_bytes() == before


def test_all_processes_together_do_every_video_once(data_root: Path, folder: ResultFolder, monkeypatch) -> None:
    """The shares of two processes, one after the other; the first cannot zip before the second is done."""
    jobs = list_jobs(VideoDataset(data_root, "valid"))
    asked = []
    for rank in (1, 0):
        predictor = FakePredictor()
        monkeypatch.setattr(inference_ytvos, "is_main_process", lambda rank=rank: rank == 0)
        # What rank 1 has finished, rank 0 did not see when it looked.
        monkeypatch.setattr(ResultFolder, "is_finished", lambda *_: False)
        folder.write_identity({})
        infer(predictor, jobs, folder, {}, ProcessInfo(rank, 2, torch.device("cpu")))
        asked.append(len(predictor.asked))
    assert asked == [2, 4]
    check_zip(folder.submission, [job.masks for job in jobs])


def test_pictures(data_root: Path, folder: ResultFolder) -> None:
    run(data_root, folder, visualize=True)
    pictures = sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*.jpg"))
    assert pictures == [f"visualize/video{v}/{e}.jpg" for v in range(3) for e in range(2)]
    with Image.open(folder.path / pictures[0]) as image:
        assert image.width > 4 * 160


def test_a_missing_frame_is_named_before_any_work(data_root: Path, folder: ResultFolder) -> None:
    (data_root / "valid" / "JPEGImages" / "video2" / "00010.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"video2/00010\.jpg"):
        run(data_root, folder)
    assert not folder.path.exists()


def test_a_truncated_frame_is_named_and_what_is_finished_stays(data_root: Path, folder: ResultFolder) -> None:
    path = data_root / "valid" / "JPEGImages" / "video1" / "00025.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"video1/00025\.jpg"):
        run(data_root, folder)
    path.write_bytes(whole)
    assert len(run(data_root, folder).asked) == 4  # the first video was done


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".."])
def test_names_that_would_leave_the_output_folder_are_refused(data_root: Path, folder: ResultFolder, name: str) -> None:
    def rename_expression(videos: dict) -> None:
        videos["video0"]["expressions"][name] = videos["video0"]["expressions"].pop("0")

    for change in (rename_expression, lambda videos: videos.update({name: videos.pop("video1")})):
        change_meta(data_root, "valid", change)
        with pytest.raises(ValueError, match="name"):
            run(data_root, folder)
    assert not folder.path.exists()


def test_nothing_to_segment_is_an_error(data_root: Path, folder: ResultFolder) -> None:
    change_meta(data_root, "valid", lambda videos: [video["expressions"].clear() for video in videos.values()])
    with pytest.raises(ValueError, match=r"meta_expressions\.json.*no expressions"):
        run(data_root, folder)


def test_a_full_disk_stops_the_run_and_names_the_file(data_root: Path, folder: ResultFolder, monkeypatch) -> None:
    def full(path: Path, mask: np.ndarray) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(inference_ytvos, "write_mask", full)
    with pytest.raises(OSError, match=r"No space left.*\.png"):
        run(data_root, folder)
    monkeypatch.undo()
    assert len(run(data_root, folder).asked) == 6


def test_reading_ahead_changes_nothing_and_passes_errors_on() -> None:
    def windows() -> Iterator[torch.Tensor]:
        yield torch.zeros(1)
        yield torch.ones(1)
        raise ValueError("damaged frame")

    received = []
    with pytest.raises(ValueError, match="damaged frame"):
        for window in read_ahead(windows()):
            received.append(window.item())
    assert received == [0, 1]
    assert list(read_ahead([])) == []


def test_only_one_window_is_read_ahead() -> None:
    num_read = 0

    def windows() -> Iterator[torch.Tensor]:
        nonlocal num_read
        for number in range(10):
            num_read += 1
            yield torch.tensor(number)

    for number, window in enumerate(read_ahead(windows())):
        assert window.item() == number
        assert num_read <= number + 2


def test_the_writer_bounds_what_waits_and_passes_errors_on() -> None:
    def fail(number: int) -> None:
        raise OSError(f"task {number}")

    done: list[int] = []
    with BackgroundWriter(num_threads=1, max_pending=2) as writer:
        for number in range(20):
            writer.submit(done.append, number)
            assert number + 1 - len(done) <= 3  # two waiting, one being written
    assert done == list(range(20))
    with pytest.raises(OSError, match="task 0"), BackgroundWriter() as writer:
        writer.submit(fail, 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model."""
    torch.manual_seed(0)
    model = ModelConfig(
        backbone="timm/resnet10t",
        hidden_dim=32,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=1,
        feedforward_dim=32,
        mask_dim=16,
        text_encoder="configs/text_encoder_small",
        text_encoder_pretrained=False,
    )
    network = build_model(model)
    config = Config(model=model, test=TestConfig(short_side=48, window=4))
    path = tmp_path_factory.mktemp("run") / "checkpoint.pth"
    state = {"model": network.state_dict(), "config": config.to_dict(), "extras": network.checkpoint_extras()}
    save_checkpoint(path, state)
    return path


def arguments(checkpoint: Path, data_root: Path, output_dir: Path) -> list[str]:
    paths = ["--checkpoint", checkpoint, "--data_root", data_root, "--output_dir", output_dir]
    return [*map(str, paths), "--device", "cpu"]


def test_the_program_with_a_real_model(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    argv = arguments(checkpoint, data_root, tmp_path / "out")
    inference_ytvos.main([*argv, "--visualize"])
    check_zip(tmp_path / "out" / "submission.zip", [job.masks for job in list_jobs(VideoDataset(data_root, "valid"))])
    identity = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert identity["test.window"] == 4 and identity["test.short_side"] == 48  # the checkpoint's, not the defaults
    inference_ytvos.main(argv)
    with pytest.raises(ValueError, match=r"test\.window 4 -> 3"):
        inference_ytvos.main([*argv, "--test.window", "3"])
    more = ["--overwrite", "--test.window", "3", "--test.precision", "bfloat16", "--test.max_long_side", "null"]
    inference_ytvos.main([*argv, *more])
    identity = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert identity["test.window"] == 3 and identity["test.precision"] == "bfloat16"


@pytest.mark.parametrize("option", [["--test.window", "many"], ["--test.windows", "3"], ["--split"]])
def test_mistaken_options_end_the_program(
    checkpoint: Path, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        inference_ytvos.main([*arguments(checkpoint, data_root, tmp_path / "out"), *option])
    assert caught.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert option[0].removeprefix("--") in error


def test_a_setting_out_of_range_is_refused(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    for option in (["--test.window", "0"], ["--test.max_long_side", "10"]):
        with pytest.raises(ValueError, match=option[0].removeprefix("--test.")):
            inference_ytvos.main([*arguments(checkpoint, data_root, tmp_path / "out"), *option])
    assert not (tmp_path / "out").exists()


def test_unusable_checkpoints_and_data_are_named(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        inference_ytvos.main(arguments(tmp_path / "absent.pth", data_root, tmp_path / "out"))
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"truncated\.pth"):
        inference_ytvos.main(arguments(truncated, data_root, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        inference_ytvos.main(arguments(checkpoint, tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_write_the_same_zip_as_one(checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    program = [str(REPOSITORY / "inference_ytvos.py")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun's processes
    inference_ytvos.main(arguments(checkpoint, data_root, tmp_path / "one"))
    torch.set_num_threads(num_threads)
    argv = [*torchrun, *arguments(checkpoint, data_root, tmp_path / "two")]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (tmp_path / name / "submission.zip" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    argv = [sys.executable, *program, *arguments(checkpoint, data_root, tmp_path / "two"), "--test.window", "5"]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "--overwrite" in done.stderr


def test_the_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = write_small_checkpoint(tmp_path / "checkpoint.pth"), []
    real = torch.load

    def load_and_remove(file: Path, **options: object) -> dict:
        read.append(file)
        content = real(file, **options)
        file.unlink()  # whoever looks at it again, to tell it from others for instance, fails
        return content

    monkeypatch.setattr(torch, "load", load_and_remove)
    argv = ["--checkpoint", str(path), "--data_root", "data", "--output_dir", "out", "--test.threshold", "0.25"]
    predictor, identity = load_predictor(build_parser().parse_args(argv), ALONE.device)
    assert read == [path]
    assert (predictor.short_side, predictor.window) == (48, 4), "the checkpoint's settings"
    assert predictor.logit_threshold == pytest.approx(-1.0986, abs=1e-4)
    assert identity["test.threshold"] == 0.25 and identity["test.short_side"] == 48 and identity["split"] == "valid"


def test_results_are_told_apart_by_the_model_and_not_by_its_file(tmp_path: Path) -> None:
    path = write_small_checkpoint(tmp_path / "checkpoint.pth")
    content = torch.load(path, weights_only=True)
    digests = []

    def note(state: dict) -> None:
        save_checkpoint(path, state)
        argv = ["--checkpoint", str(path), "--data_root", "data", "--output_dir", "out"]
        digests.append(load_predictor(build_parser().parse_args(argv), ALONE.device)[1]["model_sha256"])

    note(content)
    note(content | {"epoch": 7, "note": "trained on, or saved again"})
    name = "query_embed.weight"
    changed = content["model"] | {name: content["model"][name].nextafter(torch.tensor(9.0))}
    note(content | {"model": changed})
    other = content["config"] | {"model": content["config"]["model"] | {"max_tokens": 7}}
    note(content | {"config": other})
    assert digests[0] == digests[1] and len(set(digests)) == 3
