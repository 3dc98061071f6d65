"""What browsers play: H.264 in yuv420p of even sides, the index first, the frames' own times."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.small_videos import moving_square, write_mp4
from util.video_writer import VideoWriter


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1)])
def test_what_browsers_play(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, *size, 3), dtype=np.uint8)
    path = write_mp4(tmp_path / "a.mp4", frames)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.height, stream.width) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert len(list(container.decode(stream))) == 4
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_times_that_stand_still_still_rise(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", moving_square(4), [0.0, 0.0, 0.0, 1.0])
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == 4
    assert times == sorted(set(times))


def test_an_error_leaves_nothing_and_what_was_there(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", moving_square(3))
    before = path.read_bytes()
    with pytest.raises(RuntimeError), VideoWriter(path, 10) as writer:
        writer.write(moving_square(1)[0], 0)
        raise RuntimeError("the disk is full")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
