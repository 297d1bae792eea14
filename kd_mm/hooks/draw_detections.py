"""Pictures of what a detector finds beside the ground truth and what its teachers find, drawn by mmdet's visualizer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from numpy.typing import NDArray

from kd_mm.distillers.builder import teacher_configs
from kd_mm.distillers.teacher import Teacher
from kd_mm.utils.atomic_files import replace_file

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample

_CAPTION_HEIGHT = 26
_TEACHER_OPTIONS = ("config", "checkpoint", "random_weights")


def build_teachers(config: Config) -> dict[str, Any]:
    """Return the teachers of a distillation config as plain detectors in eval mode, by name; none for a plain config.

    Raises:
        ValueError: A checkpoint that does not fit.
    """
    return {
        name: Teacher(name, **{key: value for key, value in given.items() if key in _TEACHER_OPTIONS}).model
        for name, given in teacher_configs(config.model.get("teacher")).items()
    }


class DrawDetectionsHook(Hook):
    """Draws ground truth, the tested detector and its teachers side by side for the first images of a test.

    Writes ``<name of the image>.png``. mmdet's ``DetVisualizationHook`` draws one network. With several processes the
    first one draws of its share.

    Args:
        folder: Where to write; made if missing.
        number: Images to draw.
        score: Detections with a lower score are not drawn.
        teachers: Detectors by name; each gets the batch as the tested detector does, normalised as its own config says.
        title: What the tested detector is called.
    """

    def __init__(self, folder: str | Path, number: int, score: float, teachers: Mapping[str, Any], title: str) -> None:
        from mmdet.visualization import DetLocalVisualizer

        self.folder, self.number, self.score, self.title = Path(folder), number, score, title
        self.teachers = teachers
        self.drawn = 0
        self._visualizer = DetLocalVisualizer(name="kd_mm.draw_detections", line_width=2)

    def before_test(self, runner: Runner) -> None:
        """Read the class list and its colours, and bring the teachers to the device of the tested detector."""
        meta = dict(runner.test_loop.dataloader.dataset.metainfo)
        if len(meta.get("palette") or ()) < len(meta.get("classes") or ()):  # upstream's colours of a shorter list
            meta.pop("palette", None)
        self._visualizer.dataset_meta = meta
        device = next(runner.model.parameters()).device
        for teacher in self.teachers.values():
            teacher.to(device)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw the images of a batch until there are enough."""
        left = self.number - self.drawn
        if left <= 0 or runner.rank != 0 or not outputs:
            return
        # A detector writes its predictions into the samples that it is given.
        predictions = {name: teacher.test_step(copy.deepcopy(data_batch)) for name, teacher in self.teachers.items()}
        predictions = {self.title: outputs, **predictions}
        for index, sample in enumerate(outputs[:left]):
            image = mmcv.imfrombytes(get(sample.img_path), channel_order="rgb")
            panels = [self._panel(image, sample, "ground truth", draw_pred=False)]
            panels += [self._panel(image, found[index], name, draw_gt=False) for name, found in predictions.items()]
            path = self.folder / f"{Path(sample.img_path).stem}.png"
            replace_file(path, cv2.imencode(".png", np.hstack(panels)[..., ::-1])[1].tobytes())
            self.drawn += 1

    def _panel(self, image: NDArray[np.uint8], sample: DetDataSample, name: str, **which: bool) -> NDArray[np.uint8]:
        sample = sample.to("cpu")
        classes = self._visualizer.dataset_meta.get("classes") or ()
        if which.get("draw_pred", True):
            labels = sample.pred_instances.labels
            if len(labels) and int(labels.max()) >= len(classes):
                raise ValueError(
                    f"{name} predicts class {int(labels.max())}, but the data set has {len(classes)} classes: it was "
                    "trained on others"
                )
        elif "ignored_instances" in sample:
            sample.gt_instances = InstanceData.cat([sample.gt_instances, sample.ignored_instances])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on boxes that reach over the border
            self._visualizer.add_datasample(name, image, sample, pred_score_thr=self.score, **which)
        caption = np.full((_CAPTION_HEIGHT, image.shape[1], 3), 255, dtype=np.uint8)
        cv2.putText(caption, name, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        return np.vstack([caption, self._visualizer.get_image()])
