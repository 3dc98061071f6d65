import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from util import masks
from util.masks import mask_bounds, read_mask, read_object_ids, write_bytes, write_mask


def some_mask(size: tuple[int, int] = (6, 9)) -> np.ndarray:
    return np.random.default_rng(0).random(size) > 0.5


def test_a_mask_survives_the_file_and_the_file_is_what_the_server_wants(tmp_path: Path) -> None:
    path, mask = tmp_path / "00000.png", some_mask()
    write_mask(path, mask)
    assert np.array_equal(read_mask(path, mask.shape), mask)
    with Image.open(path) as image:
        assert (image.mode, image.size, image.format) == ("L", (9, 6), "PNG")
        assert set(np.unique(image)) == {0, 255}
    assert os.listdir(tmp_path) == ["00000.png"]


@pytest.mark.parametrize("mode", ["RGB", "P", "1", "I;16"])
def test_a_mask_of_another_kind_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.png"
    Image.new(mode, (9, 6)).save(path)
    with pytest.raises(ValueError, match=r"x\.png.*8-bit grey"):
        read_mask(path)


def test_a_mask_of_four_bits_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 4, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00\xf0\x00\x0f")
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match="8-bit grey"):
        read_mask(path)


@pytest.mark.parametrize("value", [1, 254])
def test_a_mask_of_another_value_is_refused(tmp_path: Path, value: int) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(some_mask().astype(np.uint8) * value).save(path)
    with pytest.raises(ValueError, match=rf"x\.png.*0 and 255.*{value}"):
        read_mask(path)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_mask(path, some_mask((6, 9)))
    with pytest.raises(ValueError, match=r"x\.png.*6 x 9.*9 x 6"):
        read_mask(path, (9, 6))


@pytest.mark.parametrize("reader", [read_mask, read_object_ids])
def test_broken_files_are_named(tmp_path: Path, reader) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        reader(tmp_path / "absent.png")
    path = tmp_path / "x.png"
    write_mask(path, some_mask((50, 50)))
    whole = path.read_bytes()
    for broken in (b"", whole[:20], whole[: len(whole) // 2], b"not a picture"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"x\.png.*unreadable"):
            reader(path)
    Image.new("RGB", (4, 4)).save(path, format="JPEG")
    with pytest.raises(ValueError, match=r"x\.png.*unreadable"):
        reader(path)


def test_object_ids_of_a_palette_and_of_a_grey_png(tmp_path: Path) -> None:
    ids = np.arange(54, dtype=np.uint8).reshape(6, 9) % 7
    grey = Image.fromarray(ids)
    palette = Image.fromarray(ids)
    palette.putpalette(list(range(21)))
    for image in (grey, palette):
        image.save(tmp_path / "ids.png")
        assert np.array_equal(read_object_ids(tmp_path / "ids.png", (6, 9)), ids)
    Image.fromarray(ids == 1).save(tmp_path / "ids.png")
    assert np.array_equal(read_object_ids(tmp_path / "ids.png"), ids == 1)
    Image.new("RGB", (9, 6)).save(tmp_path / "ids.png")
    with pytest.raises(ValueError, match="palette or 8-bit grey"):
        read_object_ids(tmp_path / "ids.png")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(self: Path, data: bytes) -> None:
        with open(self, "wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(masks.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"file: No space left"):
        write_bytes(path, b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_bounds() -> None:
    mask = np.zeros((6, 9), dtype=bool)
    assert mask_bounds(mask) is None
    mask[2, 3] = mask[4, 8] = True
    assert mask_bounds(mask) == (3, 2, 9, 5)
