from __future__ import annotations

import errno
from pathlib import Path

import pytest

from util.disk import make_folder, writing
from util.failures import describe, told_in_one_line
from util.masks import write_bytes
from util.results import ResultFolder


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_full(code: int, tmp_path: Path) -> None:
    target = tmp_path / "not" / "there" / "file"
    words = rf"cannot write {target}: .* \(\d+ MB free\); free some space"
    with pytest.raises(OSError, match=words) as raised, writing(target):
        raise OSError(code, "some words", str(target))
    assert raised.value.errno == code


def test_other_causes_and_kinds_stay(tmp_path: Path) -> None:
    words = r"cannot write .*/a: Permission denied; ask for it$"
    with pytest.raises(PermissionError, match=words), writing(tmp_path / "a", "ask for it"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("no error of the system")


def test_a_place_where_nothing_can_be_written_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for act, message in (
        (lambda: make_folder("file"), "cannot write file: there is a file of this name; choose another folder"),
        (lambda: make_folder("file/a"), f"cannot write file/a: {tmp_path}/file is no folder; choose another folder"),
        (lambda: ResultFolder("file/a").write_identity({}), f"cannot write file/a: {tmp_path}/file is no folder"),
        (lambda: write_bytes("file/a.json", b""), f"cannot write file/a.json: {tmp_path}/file is no folder"),
        (lambda: write_bytes("absent/a", b""), f"cannot write absent/a: No such file or directory below {tmp_path};"),
        (lambda: Path("file/a").mkdir(), "file/a: Not a directory"),
    ):
        with pytest.raises(SystemExit) as stopped, told_in_one_line():
            act()
        assert str(stopped.value.code).startswith(f"error: {message}")


def test_the_number_of_a_system_error_is_left_out() -> None:
    assert describe(PermissionError(errno.EACCES, "Permission denied", "/a")) == "/a: Permission denied"
    assert describe(FileNotFoundError("a: no such video")) == "a: no such video"
    assert describe(ValueError("a")) == "a"
