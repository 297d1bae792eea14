"""Every shipped config parses and its model builds without data; distillations change nothing but the model."""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mmengine import Config, fileio
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

from kd_mm.apis.recipes import compose
from kd_mm.registry import MODELS

from .helpers.reading import each_base_once

pytestmark = pytest.mark.usefixtures("constant_weights")
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EVERY = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))
LEAVES = [name for name in EVERY if not name.startswith(("_base_/", "sweeps/"))]
FOLDERS = sorted({Path(name).parent.as_posix() for name in LEAVES})
# What a distillation inherits from the plain config of its student.
INHERITED = ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator")
INHERITED += ("optim_wrapper", "param_scheduler", "train_cfg")


@cache
def load(name: str) -> Config:
    """Parse a config: of this repository by its path under configs/, of upstream by ``package::path``."""
    with each_base_once():
        own = name.removeprefix("kd_mm::")
        return get_config(name) if "::" in own else Config.fromfile(CONFIGS / own)


def leaves(folder: str) -> list[str]:
    return [name for name in LEAVES if Path(name).parent.as_posix() == folder]


def distillations(folder: str) -> list[str]:
    return [name for name in leaves(folder) if load(name).model.type == "kd_mm.Distiller"]


def bases(path: Path) -> list[Path]:
    """Return the files of this repository that a config names as its bases."""
    named = re.search(r"^_base_ = (\[.*?\]|\".*?\")", path.read_text(), re.MULTILINE | re.DOTALL)
    found = re.findall(r'"([^"]+)"', named[1]) if named else []
    return [path.parent / base for base in found if "::" not in base]


def levels(path: Path) -> int:
    """Return over how many levels of this repository's files a config inherits."""
    return max((1 + levels(base) for base in bases(path)), default=0)


def weightless(model: Any) -> dict[str, Any]:
    """Return a model config that reads no checkpoint."""
    model = copy.deepcopy(model)
    for part in ("backbone", "neck"):
        model[part].pop("init_cfg", None)
    return model


def build(config: Config, input_size: Any = 64) -> Any:
    """Build the model of a config; teachers with random weights, exits and connectors measured on small images."""
    model = copy.deepcopy(config.model)
    if model.type != "kd_mm.Distiller":
        model = weightless(model)
    else:
        teachers = model.teacher if isinstance(model.teacher, list) else [model.teacher] if model.teacher else []
        built = []
        for teacher in teachers:
            other = load(teacher.config)
            inline = {"model": weightless(other.model), "data_preprocessor": other.get("data_preprocessor")}
            built.append({"config": inline, "random_weights": True})
        model.update(student=weightless(model.student), teacher=built or None, input_size=input_size)
    if "data_preprocessor" in config:
        model.data_preprocessor = config.data_preprocessor
    scope = config.get("default_scope") or "mmpretrain"
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def test_every_config_parses_and_inherits_over_at_most_three_levels() -> None:
    assert [name for name in EVERY if not len(load(name))] == []
    assert {name: levels(CONFIGS / name) for name in EVERY if levels(CONFIGS / name) > 3} == {}
    assert [name for name in EVERY if Path(name).name.startswith("_")] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_model_of_a_folder_builds(folder: str) -> None:
    for name in leaves(folder):
        model = build(load(name))
        assert any(parameter.requires_grad for parameter in model.parameters()), name


def test_a_distillation_changes_nothing_but_the_model() -> None:
    for folder in [folder for folder in FOLDERS if folder != "benchmark"]:
        for name in distillations(folder):
            config = load(name)
            plain = load(bases(CONFIGS / name)[0].resolve().relative_to(CONFIGS).as_posix())
            assert config.model.student == plain.model, name
            assert {key: config.get(key) for key in INHERITED} == {key: plain.get(key) for key in INHERITED}, name
            assert set(plain.default_hooks) < set(config.default_hooks), name
            given = config.model.teacher
            for teacher in given if isinstance(given, list) else [given] if given else []:
                network = Path(teacher.checkpoint).stem
                assert folder == "quickstart" or Path(teacher.config.split("::")[1]).stem.startswith(network), name
                assert load(teacher.config).get("default_scope") == config.get("default_scope"), name


def test_names_say_the_batch_and_every_run_resumes() -> None:
    for folder in [folder for folder in FOLDERS if folder not in ("benchmark", "quickstart")]:
        runtime = load("_base_/default_runtime.py").default_hooks
        upstream = load("mmpretrain::_base_/default_runtime.py").default_hooks
        for name in leaves(folder):
            config = load(name)
            batch = re.search(r"_\d+xb(\d+)_", name)
            assert batch is None or int(batch[1]) == config.train_dataloader.batch_size, name
            for key in ("checkpoint", *(set(runtime) - set(upstream))):
                assert config.default_hooks[key].type == runtime[key].type, name


def test_training_and_test_read_different_splits() -> None:
    for folder in ("quickstart", "reid/cifar100_retrieval", "detection/bccd"):
        for name in leaves(folder):
            parts = [load(name)[f"{part}_dataloader"].dataset for part in ("train", "val", "test")]
            assert len({str(part.get("split") or part.ann_file) for part in parts}) == 3, name


@pytest.mark.parametrize("detector", ["faster-rcnn", "retinanet"])
def test_voc_differs_from_upstream_in_reader_metric_and_kept_checkpoints(detector: str) -> None:
    def bare(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: bare(value) for key, value in part.items() if key not in ("_scope_", "backend_args")}
        return [bare(item) for item in part] if isinstance(part, (list, tuple)) else part

    name = f"{detector}_r50_fpn_1x_voc0712.py"
    ours, upstream = load(f"detection/voc/{name}"), load(f"mmdet::pascal_voc/{name}")
    for field in ("model", "train_cfg", "param_scheduler", "optim_wrapper", "auto_scale_lr", "default_scope"):
        assert bare(ours[field]) == bare(upstream[field])
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        renamed = repr(bare(ours[loader].to_dict())).replace("kd_mm.VOCDataset", "VOCDataset")
        assert eval(renamed) == bare(upstream[loader].to_dict())


CIFAR, VOC, MARKET = "classification/cifar100/", "detection/voc/", "reid/market1501/"
#: Pairs that have no file: student, recipe, teacher, overrides, and how many stages are paired.
COMPOSED = [
    (f"{CIFAR}resnet8x4_1xb64_cifar100", "mtkd_ssr", f"{CIFAR}resnet32x4_1xb64_cifar100", {}, 3),
    (f"{CIFAR}mobilenetv2_1xb64_cifar100", "kd", f"{CIFAR}vgg13_1xb64_cifar100", {}, 0),
    ("classification/cub/resnet50_1xb32_cub", "mtkd_ssr", "classification/cub/resnet101_1xb32_cub", {}, 4),
    (f"{VOC}faster-rcnn_mobilenetv2_fpn_1x_voc0712", "mtkd_ssr", f"{VOC}faster-rcnn_r50_fpn_1x_voc0712", {}, 5),
    (f"{VOC}gfl_r50_fpn_1x_voc0712", "crosskd", f"{VOC}gfl_r101_fpn_1x_voc0712", {}, 0),
    (
        f"{VOC}faster-rcnn_r18_fpn_1x_voc0712",
        "fgd",
        f"{VOC}faster-rcnn_r50_fpn_1x_voc0712",
        {"model.recipe.losses.fgd.alpha": 5e-5, "model.recipe.losses.fgd.stages": [1, 2, 3, 4]},
        5,
    ),
    (f"{MARKET}mobilenetv2_1xb64_market1501", "mtkd_ssr", f"{MARKET}resnet50_1xb64_market1501", {}, 4),
    (f"{MARKET}osnet_1xb64_market1501", "rkd", f"{MARKET}resnet50_1xb64_market1501", {}, 0),
]


@pytest.mark.parametrize(("student", "recipe", "teacher", "options", "stages"), COMPOSED)
def test_pairs_without_a_file_are_composed(
    student: str, recipe: str, teacher: str, options: dict[str, Any], stages: int
) -> None:
    composed = compose(load(f"{student}.py"), recipe, f"kd_mm::{teacher}.py", "t.pth", options)
    composed.merge_from_dict(options)
    distiller = build(composed)
    assert sum(len(pairs) for pairs in distiller.stage_pairs.values()) == stages


def test_the_metafile_lists_every_distillation() -> None:
    meta = fileio.load(CONFIGS / "metafile.yml")
    collections = {collection["Name"]: collection for collection in meta["Collections"]}
    assert [one for one in collections.values() if not (ROOT / one["README"]).is_file()] == []
    assert {model["In Collection"] for model in meta["Models"]} == set(collections)
    folders = [folder for folder in FOLDERS if folder not in ("benchmark", "quickstart")]
    expected = [f"configs/{name}" for folder in folders for name in distillations(folder)]
    assert sorted(model["Config"] for model in meta["Models"]) == sorted(expected)


def test_pages_name_files_that_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *CONFIGS.rglob("*.md")]
    for page in pages:
        text = page.read_text()
        named = re.findall(r"(?:\bconfigs/|kd_mm::)((?:\w+/)+[\w.-]+\.py)", text)
        assert [name for name in named if not (CONFIGS / name).is_file()] == [], page
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        assert [link for link in links if not (page.parent / link).exists()] == [], page
