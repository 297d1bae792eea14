"""Files and the file backend; kills are in tests/hooks/test_checkpoint.py."""

from pathlib import Path

import pytest
from mmengine.fileio import get_file_backend

from kd_mm.utils.atomic_files import ATOMIC_BACKEND, replace_file


def test_replace_file_leaves_the_old_content_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file"
    replace_file(target, b"old")
    (tmp_path / "folder" / ".file.part").mkdir()
    with pytest.raises(OSError, match="cannot write .*file .*The earlier files are unchanged"):
        replace_file(target, b"new")
    assert target.read_bytes() == b"old"


def test_the_backend_removes_a_file_after_the_next_one_is_written(tmp_path: Path) -> None:
    def backend():  # mmengine makes a new one for each write
        return get_file_backend(str(tmp_path), backend_args={"backend": ATOMIC_BACKEND})

    backend().put(b"1", tmp_path / "first")
    backend().remove(tmp_path / "first")
    assert (tmp_path / "first").exists()
    backend().put(b"2", tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    backend().remove(tmp_path / "second")
    backend().put(b"3", tmp_path / "second")
    assert backend().get(tmp_path / "second") == b"3"
