"""The wheel carries configs and tools, and configs inherit from it through ``kd_mm::`` like from a checkout."""

import inspect
import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmcv.cnn  # noqa: F401 - registers its parts
import mmcv.transforms  # noqa: F401 - likewise
import mmengine.registry
import pytest
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from packaging.version import Version

import kd_mm  # noqa: F401 - makes kd_mm:: known

from .helpers.reading import each_base_once
from .helpers.tools import environment

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EVERY = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))

LEAF = """
_base_ = ["kd_mm::classification/cifar100/resnet8_1xb64_cifar100.py", "kd_mm::_base_/recipes/mtkd_ssr.py"]
model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::classification/cifar100/resnet20_1xb64_cifar100.py", random_weights=True),
    recipe={{_base_.mtkd_ssr}},
    input_size=32,
)
default_hooks = {{_base_.kd_hooks}}
train_dataloader = dict(dataset=dict(data_root="cifar100", allow_partial=True))
val_dataloader = None
val_evaluator = None
val_cfg = None
work_dir = "run"
"""

USE = """
import io, pickle, runpy, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import kd_mm
heavy = [name for name in ("torch", "mmdet", "mmpretrain", "mmcv", "sklearn", "imgaug", "numba") if name in sys.modules]
assert not heavy, heavy
from mmengine.registry import HOOKS, METRICS, MODELS, DefaultScope
with DefaultScope.overwrite_default_scope("mmpretrain"):  # the engine's registries find kd_mm's parts by themselves
    assert MODELS.get("kd_mm.KDLoss") is kd_mm.losses.KDLoss
    assert HOOKS.get("kd_mm.DistillHook") and METRICS.get("kd_mm.ReIDMetric")
sys.argv = [sys.argv[1], "--json"]  # check_env.py, which imports every part
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code
import numpy as np
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from packaging.version import Version
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES
folder = Path("cifar100/cifar-100-python")
folder.mkdir(parents=True)
images = {"data": np.zeros((100, 3072), np.uint8), "fine_labels": list(range(100))}
for name, content in (("train", images), ("test", images), ("meta", {"fine_label_names": list(CIFAR100_CATEGORIES)})):
    (folder / name).write_bytes(pickle.dumps(content, protocol=2))
log = io.StringIO()
with redirect_stdout(log), redirect_stderr(log):
    runner = Runner.from_cfg(Config.fromfile("leaf.py"))
    loader = runner.build_dataloader(runner.cfg.train_dataloader)
    data = next(iter(loader))
    runner.build_optim_wrapper(runner.cfg.optim_wrapper)
assert "Failed to search registry" not in log.getvalue(), log.getvalue()
losses = runner.model.student(**runner.model.data_preprocessor(data, True), mode="loss")
print(Path(kd_mm.__file__).parent, len(runner.model.stages), sorted(losses), len(data["inputs"]))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources and unpacked."""
    sources = tmp_path_factory.mktemp("sources")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("kd_mm", "configs", "tools"):
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "-w", "wheel"]
    if Version(version("setuptools")) >= Version("77"):
        command.append("--no-build-isolation")
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (sources / "wheel").glob("kd_mm-*.whl")
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files(folder: Path, *endings: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in endings}


def test_the_wheel_holds_every_config_every_tool_and_the_licence_and_its_tools_find_their_package(
    unpacked: Path, tmp_path: Path
) -> None:
    mim = unpacked / "kd_mm" / ".mim"
    assert files(mim / "configs", ".py") == set(EVERY)
    assert files(mim / "tools", ".py", ".sh") == files(ROOT / "tools", ".py", ".sh")
    assert {"model-index.yml", "configs/metafile.yml"} == files(mim, ".yml")
    assert files(unpacked / "kd_mm", ".py") >= files(ROOT / "kd_mm", ".py")
    assert (unpacked / "kd_mm" / "py.typed").is_file()
    (about,) = unpacked.glob("kd_mm-*.dist-info")
    assert "kd-mm = kd_mm.cli.main:main" in (about / "entry_points.txt").read_text()
    assert (about / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert {path.name for path in unpacked.iterdir()} == {"kd_mm", about.name}
    command = [sys.executable, "-I", "-S", unpacked / "kd_mm" / ".mim" / "tools" / "check_env.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "next:    pip install kd-mm" in done.stdout


def test_a_config_elsewhere_inherits_from_the_wheel_and_runs(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "leaf.py").write_text(LEAF)
    command = [sys.executable, "-c", USE, unpacked / "kd_mm" / ".mim" / "tools" / "check_env.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(unpacked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *report, last = done.stdout.splitlines()
    assert set(json.loads("\n".join(report))["imports"].values()) == {""}
    assert last == f"{unpacked / 'kd_mm'} 3 ['loss'] 64"


#: Parts of mmcv and mmengine, which every scope finds; "nms" is no component, but chosen by name inside mmcv.
FOUND_FROM_EVERYWHERE = {
    "nms",
    *(
        name
        for registry in vars(mmengine.registry).values()
        if isinstance(registry, Registry)
        for name in registry.module_dict
    ),
}


def unscoped(part: Any, scope: str | None) -> set[str]:
    """Return the types of upstream that would be looked up in kd_mm."""
    if isinstance(part, dict):
        scope = part.get("_scope_", scope)
        kind = part.get("type")
        bare = isinstance(kind, str) and "." not in kind and kind not in FOUND_FROM_EVERYWHERE
        return set().union({kind} if scope == "kd_mm" and bare else set(), *(unscoped(v, scope) for v in part.values()))
    return set().union(*(unscoped(item, scope) for item in part)) if isinstance(part, list | tuple) else set()


def test_what_is_inherited_through_kd_mm_finds_upstreams_parts() -> None:
    # mmengine marks what comes from `kd_mm::` with the scope kd_mm, in which upstream's bare names are unknown.
    read_by_runner = inspect.signature(Runner).parameters
    for name in EVERY:
        with each_base_once():
            config = Config.fromstring(f'_base_ = ["kd_mm::{name}"]', ".py")
        used = {key: value for key, value in config._cfg_dict.to_dict().items() if key in read_by_runner}
        assert unscoped(used, None) == set(), name
