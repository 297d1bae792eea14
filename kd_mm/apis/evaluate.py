"""Evaluate a checkpoint, always as the student alone."""

import json
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.evaluator import DumpResults
from mmengine.model import BaseTTAModel

from kd_mm.apis.recipes import task_of
from kd_mm.apis.run_options import set_threads, set_up_launcher
from kd_mm.apis.runner import build_runner, no_trace_of_failure, read_config
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.checkpoint import fill, read_checkpoint, student_state_dict, trained_classes
from kd_mm.utils.config import as_list, is_distillation, parts_of
from kd_mm.utils.contexts import unwrapped

#: Upstream's defaults: what merges the predictions for one image, and the metainfo of a detector's samples.
_MERGED_BOXES = {"nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100}
_TTA_MODELS: dict[str, dict[str, Any]] = {
    "classification": {"type": "mmpretrain.AverageClsScoreTTA"},
    "detection": {"type": "DetTTAModel", "tta_cfg": _MERGED_BOXES},
}
_META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


def plain_config(config: Config) -> Config:
    """Return the plain config of a distillation's student; a plain config comes back as a copy.

    Everything that belongs to distillation is gone: the Distiller, its recipe and its hooks.
    """
    plain = Config(config.to_dict())
    if not is_distillation(plain):
        return plain
    student = plain.model.student.to_dict()
    if "data_preprocessor" in plain.model and "data_preprocessor" not in plain:
        student.setdefault("data_preprocessor", plain.model.data_preprocessor.to_dict())
    plain._cfg_dict["model"] = ConfigDict(student)
    hooks = plain.get("default_hooks") or {}
    for name in [name for name, hook in hooks.items() if str((hook or {}).get("type", "")).startswith("kd_mm.")]:
        hooks.pop(name)
    (hooks.get("checkpoint") or {}).pop("backend_args", None)
    recipes = [key for key, value in config.items() if isinstance(value, dict) and "losses" in value]
    for name in ("kd_hooks", *recipes):
        plain._cfg_dict.pop(name, None)
    return plain


def evaluate(
    config: str,
    checkpoint: str,
    options: dict[str, Any] | None = None,
    work_dir: str | None = None,
    out: str | None = None,
    tta: bool = False,
    amp: bool = False,
    launcher: str = "none",
    show_dir: str | None = None,
) -> dict[str, float]:
    """Evaluate a checkpoint on the config's test data.

    A detection config that asks for mmdet's ``VOCMetric`` gets :class:`kd_mm.evaluation.DetectionMetric` beside it.

    Args:
        config: A distillation config or the plain config of its student.
        checkpoint: Any checkpoint of a run, or an exported one; every weight of the student must be in it.
        options: Overrides of config keys.
        work_dir: Folder for logs.
        out: A ``.json`` file for the metrics, or a ``.pkl`` file for every prediction.
        tta: Test-time augmentation.
        amp: Predict under bfloat16 autocast.
        launcher: As mmengine's.
        show_dir: Draw what a detector finds on each image into this folder, beside the ground truth, by mmdet's
            ``DetVisualizationHook``.

    Returns:
        The metrics.

    Raises:
        ValueError: The checkpoint does not fit, ``out`` has another ending, or nothing can be drawn.
    """
    suffix = Path(out).suffix if out is not None else None
    if suffix not in (None, ".json", ".pkl"):
        raise ValueError(f"--out {out}: give a .json file for the metrics or a .pkl file for the predictions")
    if out is not None and Path(out).is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it")
    if show_dir is not None and tta:
        raise ValueError("--show-dir draws single predictions: give it without --tta")
    set_threads()
    plain = plain_config(read_config(config, options, work_dir))
    if lacking := [key for key in ("test_dataloader", "test_evaluator") if plain.get(key) is None]:
        raise ValueError(f"config {config}: there is no {lacking[0]}: set it, for example to that of the validation")
    stored = read_checkpoint(checkpoint)
    weights = student_state_dict(stored)
    if tta:
        _add_tta(plain)
    if show_dir is not None:
        _draw_detections(plain, show_dir)
    plain.resume, plain.load_from = False, None
    plain.setdefault("val_cfg", None)
    for _, part in parts_of(plain.model):  # the files that training began with need not be here
        given = part.get("init_cfg") if isinstance(part, dict) else None
        file = given.get("checkpoint") if isinstance(given, dict) else None
        if isinstance(file, str) and "://" not in file and not Path(file).expanduser().is_file():
            part.pop("init_cfg")
    _add_detection_metric(plain)
    set_up_launcher(plain, launcher)
    with no_trace_of_failure(plain.work_dir):
        runner = build_runner(plain, trained=trained_classes(stored))
        model = unwrapped(runner)
        model = model.module if isinstance(model, BaseTTAModel) else model
        if tta and isinstance(model, BaseDetector) and model.with_mask:
            raise ValueError("--tta: mmdet merges the boxes of augmented images, not their masks: leave it out")
        fill(model, weights, "student", checkpoint)
        if suffix == ".pkl":
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=out))
        with torch.autocast(get_device(), dtype=torch.bfloat16, enabled=amp):
            metrics = runner.test()
    if out is not None and suffix == ".json" and runner.rank == 0:
        replace_file(out, (json.dumps(metrics, indent=2) + "\n").encode())
    return metrics


def _add_detection_metric(config: Config) -> None:
    """Measure all three families of average precision where the config asks for one of VOC."""
    metrics = as_list(config.get("test_evaluator"))
    kinds = [str(metric.get("type", "")).rpartition(".")[2] for metric in metrics]
    if "VOCMetric" in kinds and "DetectionMetric" not in kinds:
        config.test_evaluator = [*metrics, {"type": "kd_mm.DetectionMetric"}]


def _draw_detections(config: Config, folder: str) -> None:
    """Have mmdet's hook draw, as its test tool does, also where the config has no such hook or visualizer."""
    if (task := task_of(config)) != "detection":
        raise ValueError(f"--show-dir draws detections by mmdet's DetVisualizationHook, this is {task}: leave it out")
    hooks = config.setdefault("default_hooks", {})
    options = {"draw": True, "test_out_dir": str(Path(folder).absolute())}
    hooks["visualization"] = {"type": "mmdet.DetVisualizationHook", **(hooks.get("visualization") or {}), **options}
    if not str((config.get("visualizer") or {}).get("type")).endswith("DetLocalVisualizer"):
        config.visualizer = {"type": "mmdet.DetLocalVisualizer", "name": "visualizer"}


def _add_tta(config: Config) -> None:
    """Use the config's own augmentations, or average over the horizontal flip, as upstream's test tools do."""
    task = task_of(config)
    if task == "reid" and not ("tta_model" in config and "tta_pipeline" in config):
        raise ValueError("--tta merges class scores or boxes; for embeddings take --cfg-options model.flip_test=True")
    dataset = config.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_pipeline" not in config:
        flips = [{"type": "RandomFlip", "prob": 0.0}, {"type": "RandomFlip", "prob": 1.0}]
        *steps, pack = map(dict, dataset.pipeline)
        first = len(steps)
        if task == "detection":  # boxes are flipped back in the image without padding, and objects are not flipped
            pack["meta_keys"] = (*pack.get("meta_keys", _META_KEYS), "flip", "flip_direction")
            names = [str(step["type"]).rpartition(".")[2] for step in steps]
            first = min((names.index(name) for name in ("Pad", "LoadAnnotations") if name in names), default=first)
        augmented = {"type": "TestTimeAug", "transforms": [flips, *([step] for step in steps[first:]), [pack]]}
        config.tta_pipeline = [*steps[:first], augmented]
    tta_model = config.get("tta_model") or _TTA_MODELS[task]
    config._cfg_dict["model"] = ConfigDict({**tta_model, "module": config.model})
    dataset.pipeline = config.tta_pipeline
