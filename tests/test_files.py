import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.files import member, picture_size, read_csv, read_json, read_picture


def jpeg(mode: str = "RGB", size: tuple[int, int] = (24, 32)) -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pictures_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(mode))
    picture = read_picture(path)
    assert picture.shape == (24, 32, 3) and picture.dtype == np.uint8
    assert picture_size(path) == (24, 32)


def test_no_truncation_goes_unnoticed(tmp_path: Path) -> None:
    whole, path = jpeg(), tmp_path / "a.jpg"
    path.write_bytes(whole)
    expected, complaints = read_picture(path), 0
    for length in [*range(0, len(whole), 7), *range(len(whole) - 12, len(whole))]:
        path.write_bytes(whole[:length])
        try:
            picture = read_picture(path)
        except ValueError as error:
            assert str(path) in str(error) and "again" in str(error)
            complaints += 1
        else:  # only the end marker was lost
            np.testing.assert_array_equal(picture, expected)
    assert complaints > len(whole) // 7 - 5


def test_only_formats_of_photographs_and_masks_are_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for PostScript."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable picture"):
        read_picture(tmp_path / "a.jpg")


def test_missing_picture_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.jpg is missing; unpack"):
        read_picture(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"a\.jpg is missing, and so is its folder .*video;"):
        picture_size(tmp_path / "video" / "a.jpg")


def test_json_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    with pytest.raises(FileNotFoundError, match=r"meta\.json: no such file"):
        read_json(path)
    path.write_text('{"videos": {\n"a": 1,\n')
    with pytest.raises(ValueError, match=r"meta\.json: broken JSON, line 3"):
        read_json(path)
    path.write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(ValueError, match=r"meta\.json: broken JSON"):
        read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"meta\.json: broken JSON"):
        read_json(path)
    path.write_text('{"a": "é"}', encoding="utf-8-sig")
    assert read_json(path) == {"a": "é"}


def test_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffvideo,query\n\nv,"a man,\nwalking\u2028on"\nw,b\n', encoding="utf-8")
    assert read_csv(path) == [(1, ["video", "query"]), (4, ["v", "a man,\nwalking\u2028on"]), (5, ["w", "b"])]
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"a\.csv: is empty"):
        read_csv(path)
    with pytest.raises(FileNotFoundError, match=r"b\.csv: no such file"):
        read_csv(tmp_path / "b.csv")


def test_member_wants_the_type() -> None:
    assert member({"a": [1]}, "a", list, "file") == [1]
    for entry in ({"a": 1}, {}, [], None, "a"):
        with pytest.raises(ValueError, match="file has no 'a' that is a JSON list"):
            member(entry, "a", list, "file")
