"""The page: asked through gradio's client, and looked at in headless Chromium where there is one."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from models.predictor import Predictor
from page_jobs import Limits
from tests.small_model import write_small_checkpoint
from tests.small_videos import moving_square, write_encrypted, write_mp4, write_sound, write_without_frames

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed")
pytest.importorskip("gradio", reason="it is not installed")

from demo_page import Page, PageSettings  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Served by a small model; two jobs at a time, two seconds, a tenth of a megabyte."""
    checkpoint = write_small_checkpoint(tmp_path_factory.mktemp("model") / "model.pth")
    predictors = [Predictor.from_checkpoint(checkpoint, device="cpu") for _ in range(2)]
    limits = Limits(max_megabytes=0.1, max_seconds=2, max_sentences=3)
    with Page(predictors, PageSettings(port=0, limits=limits)) as page:
        yield page


def client(page: Page, folder: Path) -> gradio_client.Client:
    return gradio_client.Client(page.url, verbose=False, download_files=str(folder))


def ask(page: Page, folder: Path, video: Path, sentences: str = "the red square", propagate: str = "none") -> tuple:
    """(original, overlay, verdict, _, everything, slider, sentences)"""
    upload = gradio_client.handle_file(str(video))
    return client(page, folder).predict(upload, sentences, propagate, api_name="/segment")


def count_frames(path: str) -> int:
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return len(list(container.decode(video=0)))


def test_an_upload_gives_everything(page: Page, tmp_path: Path) -> None:
    asked = client(page, tmp_path / "out")
    upload = gradio_client.handle_file(str(write_mp4(tmp_path / "a.mp4", moving_square(6))))
    sentences = "the red square\n\nthe blue one"
    original, overlay, verdict, _, everything, slider, of = asked.predict(
        upload, sentences, "flow", api_name="/segment"
    )
    assert count_frames(original["video"] if isinstance(original, dict) else original) == 6
    assert count_frames(overlay["video"] if isinstance(overlay, dict) else overlay) == 6
    assert len(verdict.splitlines()) == 2 and '"the red square" (score ' in verdict
    assert slider["maximum"] == 5
    assert [name for name, _ in of["choices"]] == ["all sentences", "1. the red square", "2. the blue one"]
    with zipfile.ZipFile(everything) as archive:
        names = archive.namelist()
        results = json.loads(archive.read("results.json"))
    assert sum(name.endswith(".png") for name in names) == 12
    assert {"overlay.mp4", "sheet.jpg"} <= set(names)
    assert results["num_frames"] == 6
    drawn = {}
    for layers in ([], ["masks"], ["boxes"], ["reference points"], ["all queries"]):
        picture = asked.predict(3, layers, "1. the red square", api_name="/frame")
        drawn[str(layers)] = np.asarray(Image.open(picture if isinstance(picture, str) else picture["path"]))
    assert len({image.tobytes() for image in drawn.values()}) >= 4  # a random model may have an empty mask


def test_the_sample_can_be_picked(page: Page, tmp_path: Path) -> None:
    path, sentences = client(page, tmp_path).predict(api_name="/sample")
    assert Path(path).name == "sample.mp4" and "the green ring" in sentences


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no video" * 99), "not a readable video"),
        (lambda path: path.touch(), "empty"),
        (write_encrypted, "encrypted"),
        (write_sound, "only audio"),
        (write_without_frames, "video"),
        (lambda path: write_mp4(path, moving_square(30)), "longer than 2 s"),
        (lambda path: write_mp4(path, np.zeros((1, 16, 2600, 3), np.uint8)), "2600 x 16; at most 2560"),
        (lambda path: write_mp4(path, np.zeros((1, 16, 640, 3), np.uint8)), "640 x 16; one side may be 8 times"),
    ],
    ids=["broken", "empty", "encrypted", "sound", "no frames", "long", "wide", "flat"],
)
def test_odd_files_are_refused_in_words_that_name_no_path(page: Page, tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "a.mp4")
    jobs = Path(page._folder.name) / "jobs"
    before = set(jobs.iterdir())
    with pytest.raises(Exception, match=message) as error:
        ask(page, tmp_path / "out", tmp_path / "a.mp4")
    assert "/tmp" not in str(error.value) and "referformer-page" not in str(error.value)
    assert set(jobs.iterdir()) <= before


def test_a_large_file_is_refused(page: Page, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(200_000))
    with pytest.raises(Exception, match=r"(?i)exceed|too large|at most|413"):
        ask(page, tmp_path / "out", tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [("", "no sentence"), (" \n \n", "no sentence"), ("?!", "has no words"), ("a\nb\nc\nd", "at most 3")],
)
def test_sentences_that_cannot_be_answered(page: Page, tmp_path: Path, sentences: str, message: str) -> None:
    video = write_mp4(tmp_path / "a.mp4", moving_square(2))
    with pytest.raises(Exception, match=message):
        ask(page, tmp_path / "out", video, sentences)


@pytest.mark.parametrize("sentence", ["the red square " * 700, "赤い四角", "<script>alert(1)</script>", "../../x"])
def test_odd_sentences_are_answered(page: Page, tmp_path: Path, sentence: str) -> None:
    video = write_mp4(tmp_path / "a.mp4", moving_square(2))
    verdict = ask(page, tmp_path / "out", video, sentence)[2]
    assert verdict.startswith(("found", "not there"))


def test_names_of_uploads_never_become_paths(page: Page, tmp_path: Path) -> None:
    video = write_mp4(tmp_path / "..%2F..%2Fevil; rm -rf $HOME `x`.mp4", moving_square(2))
    everything = ask(page, tmp_path / "out", video)[4]
    root = Path(page._folder.name)
    assert {path.name for path in root.iterdir()} == {"jobs", "uploads", "sample.mp4"}
    assert not any("evil" in path.name for path in (root / "jobs").rglob("*"))
    with zipfile.ZipFile(everything) as archive:
        assert all(not name.startswith(("/", "..")) and "evil" not in name for name in archive.namelist())


@pytest.mark.slow
def test_twenty_uploads_at_once_neither_crash_nor_mix(page: Page, tmp_path: Path) -> None:
    def one(i: int) -> None:
        frames = np.full((3 + i % 5, 32, 48, 3), 10 * i, dtype=np.uint8)
        video = write_mp4(tmp_path / f"{i}.mp4", frames)
        original, _, verdict, _, everything, slider, _ = ask(page, tmp_path / f"out{i}", video, f"square number {i}")
        with av.open(original["video"] if isinstance(original, dict) else original) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(pictures) == len(frames) == slider["maximum"] + 1
        assert abs(float(np.mean(pictures)) - 10 * i) < 3
        assert f'"square number {i}"' in verdict
        with zipfile.ZipFile(everything) as archive:
            results = json.loads(archive.read("results.json"))
        assert [entry["sentence"] for entry in results["sentences"]] == [f"square number {i}"]
        assert results["num_frames"] == len(frames)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))


def test_it_listens_on_this_machine_only_and_takes_its_files_along(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "model.pth")
    with Page([Predictor.from_checkpoint(checkpoint, device="cpu")], PageSettings(port=0)) as page:
        assert page.url.startswith("http://127.0.0.1:")
        ask(page, tmp_path / "out", write_mp4(tmp_path / "a.mp4", moving_square(2)))
        root = Path(page._folder.name)
        assert list(root.glob("jobs/*/everything.zip"))
    assert not root.exists()


def test_old_uploads_and_results_go_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo_page.KEPT_SECONDS", 3)
    monkeypatch.setattr("demo_page.CLEANED_SECONDS", 1)
    checkpoint = write_small_checkpoint(tmp_path / "model.pth")
    with Page([Predictor.from_checkpoint(checkpoint, device="cpu")], PageSettings(port=0)) as page:
        ask(page, tmp_path / "out", write_mp4(tmp_path / "a.mp4", moving_square(2)))
        root = Path(page._folder.name)
        deadline = time.monotonic() + 60
        abandoned = root / "jobs" / "job-abandoned" / "result" / "sheet.jpg"
        abandoned.parent.mkdir(parents=True)
        abandoned.touch()

        def left() -> list[Path]:
            return [path for name in ("jobs", "uploads") for path in (root / name).rglob("*") if path.is_file()]

        assert left()
        while left() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert left() == []
        while abandoned.parents[1].exists() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not abandoned.parents[1].exists()


def test_without_gradio_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match=r"the page needs gradio .*pip install 'gradio>=6"):
        Page([], PageSettings(port=0))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt install chromium)")
def test_a_user_in_a_browser(page: Page, tmp_path: Path) -> None:
    """Picks a file, writes two sentences, gets both videos, moves the slider, switches layers, sees an error."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    video = write_mp4(tmp_path / "a.mp4", moving_square(6))
    problems: list[str] = []
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1280, "height": 1400})
        tab.on("pageerror", lambda error: problems.append(str(error)))
        outside: list[str] = []
        tab.on("request", lambda r: None if r.url.startswith((page.url, "blob:", "data:")) else outside.append(r.url))
        tab.goto(page.url)
        tab.get_by_role("button", name="Find it").wait_for(timeout=60_000)
        tab.get_by_role("button", name="Find it").click()
        tab.get_by_text("no video; upload one or pick the sample").first.wait_for(timeout=60_000)
        assert tab.locator(".block span.error").count() == 1  # not every output looks broken
        tab.locator("input[type=file]").first.set_input_files(str(video))
        tab.locator("td.filename[aria-label='a.mp4']").first.wait_for(timeout=60_000)
        tab.get_by_label("Sentences, one a line").fill("the red square\nthe blue one")
        tab.get_by_role("button", name="Find it").click()
        tab.locator("video").nth(1).wait_for(timeout=120_000)
        played = "videos => videos.every(v => v.readyState >= 1 && v.videoWidth > 0)"
        tab.wait_for_function(f"() => ({played})([...document.querySelectorAll('video')])", timeout=60_000)
        tab.get_by_text("1. the red square").first.wait_for(timeout=60_000)
        picture = tab.locator(".image-frame img, [data-testid=detailed-image], .image-container img").first
        picture.wait_for(timeout=60_000)
        before = picture.get_attribute("src")
        tab.get_by_label("all queries").check()
        tab.wait_for_function("([e, s]) => e.src !== s", arg=[picture.element_handle(), before], timeout=60_000)
        tab.screenshot(path=str(tmp_path / "page.png"))
        browser.close()
    assert problems == []
    assert [url for url in outside if "127.0.0.1" not in url] == []
