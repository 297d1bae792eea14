"""Importing the package writes nothing to standard output, and nothing that upstream says is lost."""

import importlib
from pathlib import Path

import pytest

from kd_mm.ops.import_hooks import quiet


def test_what_a_module_prints_goes_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talks_on_import.py").write_text("print('Could not import OneDL')\nprint('something else')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with quiet():
        importlib.import_module("talks_on_import")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "something else\n")
