"""What is too much for memory lies on disk, and comes back as it was."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from util.fonts import font_for
from util.mask_store import MaskStore
from util.spool import Spool


def test_pieces_come_back_in_any_order():
    spool, pieces = Spool(), [b"", b"one", b"x" * 100_000, b"two"]
    for piece in pieces:
        spool.append(piece)
    assert len(spool) == 4
    assert [spool[i] for i in (3, 0, 2, 1)] == [b"two", b"", b"x" * 100_000, b"one"]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            spool[index]


def test_threads_read_while_another_writes():
    spool = Spool()
    for i in range(50):
        spool.append(bytes([i]) * 1000)

    def read(i: int) -> bool:
        spool.append(b"more")
        return spool[i % 50] == bytes([i % 50]) * 1000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 60)])
def test_masks_come_back_exactly(size: tuple[int, int]):
    masks = np.random.default_rng(0).random((5, *size)) > 0.5
    masks[1], masks[2] = False, True
    store = MaskStore(size)
    for mask in masks:
        store.append(mask)
    assert len(store) == 5
    for i in (4, 0, 1, 2, 3):
        assert store[i].dtype == bool
        np.testing.assert_array_equal(store[i], masks[i])


def test_letters_beyond_latin_have_a_font_that_has_them():
    missing = font_for("x", 20).getmask("\uffff")  # the box that stands for a letter that is missing
    for text in ("квадрат", "τετράγωνο"):
        font = font_for(text, 20)
        assert bytes(font.getmask(text[0])) != bytes(font.getmask("\uffff")) != b""
        assert font.getmask(text).getbbox() is not None
    assert missing is not None
    assert font_for("猫", 20).getmask("猫") is not None  # a box, where no font of the system has the letter
