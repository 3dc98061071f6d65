from __future__ import annotations

import errno
from pathlib import Path

import pytest

from util.disk import writing


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
