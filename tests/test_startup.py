"""What is imported when, in fresh interpreters: nothing heavy before it is used."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kd_mm.cli.main import COMMANDS, main

from .helpers.tools import ROOT, environment

HEAVY = ("torch", "mmdet", "mmpretrain", "mmcv", "sklearn", "imgaug", "numba")


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [[ROOT / "tools" / "train.py", "--help"], ["-m", "kd_mm.cli.main", "--help"]])
def test_help_comes_at_once(command: list[object]) -> None:
    """Under two seconds of CPU, on slow machines too, as neither torch nor mmdet is imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = run(sys.executable, "-X", "importtime", *command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: ")
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert imported.isdisjoint(HEAVY)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_every_tool_is_a_subcommand_with_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        assert "--help" in capsys.readouterr().out
    tools = {path.stem for path in (ROOT / "tools").glob("*.py") if not path.stem.startswith("benchmark_")}
    assert tools == set(COMMANDS.values())
    assert main(["trian", "config.py"]) == 2
    assert capsys.readouterr().err == "error: no command 'trian', did you mean 'train'?\n"
    assert main([]) == 2
