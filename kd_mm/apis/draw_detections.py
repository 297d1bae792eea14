"""Pictures of what a detector found, its teachers' answers beside it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from numpy.typing import NDArray

from kd_mm.distillers.build import teacher_configs
from kd_mm.distillers.teacher import Teacher
from kd_mm.engine.atomic_files import replace_file

Image = NDArray[np.uint8]
#: Longest side in pixels below which an image is enlarged, so that names and scores can be read.
_LEAST_SIDE = 400
_CAPTION = 26
_KEPT = ("config", "checkpoint", "random_weights")


def build_teachers(config: Config) -> dict[str, Any]:
    """Return the teachers of a distillation config as plain detectors in eval mode, by name; none for a plain config.

    Raises:
        ValueError: A checkpoint that does not fit.
    """
    if not str(config.model.get("type", "")).endswith("Distiller"):
        return {}
    configs = teacher_configs(config.model.get("teacher"))
    return {
        name: Teacher(name, **{key: value for key, value in options.items() if key in _KEPT}).model
        for name, options in configs.items()
    }


class DetectionPictures(Hook):
    """Draws ground truth, the tested detector and its teachers side by side for the first images of a test.

    Writes ``<name of the image>.png``, whole or not at all. With several processes the first one draws of its share.

    Args:
        folder: Where to write; made if missing.
        number: Images to draw.
        score: Detections with a lower score are not drawn.
        teachers: Detectors by name; each sees the batch as the tested detector does, normalised as its own config says.
        title: What the tested detector is called.
    """

    def __init__(self, folder: str | Path, number: int, score: float, teachers: Mapping[str, Any], title: str) -> None:
        from mmdet.visualization import DetLocalVisualizer

        self.folder, self.number, self.score, self.title = Path(folder), number, score, title
        self.teachers = teachers
        self.files: list[Path] = []
        self._visualizer = DetLocalVisualizer(name="kd_mm.detection_pictures", line_width=2)
        self._classes: Sequence[str] = ()

    def before_test(self, runner: Runner) -> None:
        """Read the class list and its colours, and bring the teachers to the device of the tested detector."""
        meta = dict(runner.test_loop.dataloader.dataset.metainfo)
        self._classes = meta.get("classes") or ()
        if len(meta.get("palette") or ()) < len(self._classes):  # upstream's colours, with a longer class list
            meta.pop("palette", None)
        self._visualizer.dataset_meta = meta
        device = next(runner.model.parameters()).device
        for teacher in self.teachers.values():
            teacher.to(device)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the images of a batch until there are enough."""
        left = self.number - len(self.files)
        if left <= 0 or runner.rank != 0 or not outputs:
            return
        # A detector writes its answer into the samples that it is given.
        batches = {name: copy.deepcopy(data_batch) for name in self.teachers}
        answers = {name: teacher.test_step(batches[name]) for name, teacher in self.teachers.items()}
        for i, sample in enumerate(outputs[:left]):
            found = {self.title: sample.pred_instances}
            found.update({name: answer[i].pred_instances for name, answer in answers.items()})
            self._draw(sample, found)

    def _draw(self, sample: Any, found: Mapping[str, InstanceData]) -> None:
        image = mmcv.imfrombytes(get(sample.img_path), channel_order="rgb")
        factor = max(1, round(_LEAST_SIDE / max(image.shape[:2])))
        image = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
        panels = [self._panel(image, self._truth(sample), factor, "ground truth: ")]
        for name, instances in found.items():
            shown = instances[instances.scores >= self.score]
            panels.append(self._panel(image, self._named(shown, name), factor, f"{name}, score {self.score:g}: "))
        gap = np.full((panels[0].shape[0], 6, 3), 255, dtype=np.uint8)
        whole = np.hstack([part for panel in panels for part in (panel, gap)][:-1])
        path, copies = self.folder / f"{Path(sample.img_path).stem}.png", 1
        while path in self.files:
            copies += 1
            path = self.folder / f"{Path(sample.img_path).stem}_{copies}.png"
        replace_file(path, cv2.imencode(".png", whole[..., ::-1])[1].tobytes())
        self.files.append(path)

    def _panel(self, image: Image, instances: InstanceData, factor: int, caption: str) -> Image:
        from mmdet.structures import DetDataSample

        instances.bboxes = instances.bboxes * factor
        # Drawn as ground truth is: names are as given, and nothing is left out.
        sample = DetDataSample(gt_instances=instances)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on boxes that reach over the border
            self._visualizer.add_datasample("panel", image, sample, draw_pred=False)
        strip = np.full((_CAPTION, image.shape[1], 3), 255, dtype=np.uint8)
        text = f"{caption}{len(instances)}"
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        size = 0.5 * min(1.0, (image.shape[1] - 8) / width)
        cv2.putText(strip, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
        return np.vstack([strip, self._visualizer.get_image()])

    def _truth(self, sample: Any) -> InstanceData:
        given, ignored = sample.get("gt_instances"), sample.get("ignored_instances")
        parts = [part for part in (given, ignored) if part is not None and "bboxes" in part]
        if not parts:
            return self._named(InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)), "")
        whole = InstanceData(
            bboxes=torch.cat([getattr(part.bboxes, "tensor", part.bboxes) for part in parts]).cpu(),
            labels=torch.cat([part.labels for part in parts]).cpu(),
        )
        whole = self._named(whole, "the ground truth")
        hard = len(ignored.bboxes) if ignored is not None and "bboxes" in ignored else 0
        start = len(whole) - hard
        whole.label_names = [f"({name})" if i >= start else name for i, name in enumerate(whole.label_names)]
        return whole

    def _named(self, instances: InstanceData, owner: str) -> InstanceData:
        """Return boxes, labels and names of instances, on the CPU; an ignored object's name stands in brackets."""
        labels = instances.labels.cpu()
        if len(labels) and int(labels.max()) >= len(self._classes):
            raise ValueError(
                f"{owner} has class {int(labels.max())}, but the data set has {len(self._classes)} classes: it was "
                "trained on others"
            )
        named = InstanceData(bboxes=instances.bboxes.detach().float().cpu(), labels=labels)
        scores = instances.scores.detach().float().cpu() if "scores" in instances else torch.ones(len(labels))
        percent = [f" {100 * score:.0f}" if "scores" in instances else "" for score in scores.tolist()]
        names = [self._classes[label] for label in labels.tolist()]
        named.label_names = [f"{name}{text}" for name, text in zip(names, percent, strict=True)]
        return named
