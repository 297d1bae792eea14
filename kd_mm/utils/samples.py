"""Data sets inside of wrappers, and one line on an error inside of their pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import BaseDataset, Compose, ConcatDataset

from kd_mm.utils.suggest import describe_error

#: Options of a loading step by what the samples of a data set lack.
_ASKED_BY = {"mask": "with_mask", "bbox": "with_bbox", "seg_map_path": "with_seg", "keypoints": "with_keypoints"}


class OneLineError(ValueError):
    """An error whose message stays one line when a data loader's worker raises it.

    torch raises the error again in the main process with the worker's traceback as its message.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: "))


class SampleError(OneLineError):
    """A step of a data pipeline failed on a sample."""


class NamedPipeline(Compose):
    """A pipeline whose errors name the data set, the sample and the step.

    Args:
        pipeline: The pipeline.
        name: What the data set is called in a message.

    Attributes:
        dropped_by: The step that left out the last sample; empty where it passed.
    """

    def __init__(self, pipeline: Compose, name: str) -> None:
        self.transforms = pipeline.transforms
        self.name, self.dropped_by = name, ""

    def __call__(self, data: dict[str, Any]) -> Any:
        """Run the steps on one sample.

        Raises:
            SampleError: One of them failed.
        """
        sample = data.get("img_path") or f"sample {data.get('sample_idx')}"
        for step in self.transforms:
            data = run_step(step, data, self.name, sample)
            self.dropped_by = type(step).__name__ if data is None else ""
            if data is None:
                return None
        return data


class NamedStep:
    """A step of a data set that mixes images, whose errors name the data set, the sample and the step.

    Everything but the call is the step's own: upstream asks steps for what they mix.
    """

    def __init__(self, step: Any, name: str) -> None:
        self._step, self._name = step, name

    def __call__(self, data: dict[str, Any]) -> Any:
        """Run the step on one sample.

        Raises:
            SampleError: It failed.
        """
        return run_step(self._step, data, self._name, data.get("img_path") or "a sample")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not there yet while a worker unpickles it
            raise AttributeError(name)
        return getattr(self._step, name)


def run_step(step: Any, data: dict[str, Any], name: str, sample: str) -> Any:
    """Run a step of a pipeline on one sample.

    Raises:
        SampleError: It failed; the line has the data set ``name`` and the ``sample``.
    """
    try:
        return step(data)
    except OneLineError:
        raise
    except Exception as error:
        what = " ".join(describe_error(error).split())
        if isinstance(error, KeyError) and error.args[0] in _ASKED_BY:
            option = _ASKED_BY[error.args[0]]
            what = f"the data set has no {error.args[0]!r}, take {option}=True out of this step"
        elif type(error).__name__ not in what:
            what = f"{type(error).__name__}: {what}"
        raise SampleError(f"{name}: {type(step).__name__} fails on {sample}: {what}") from error


def base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """Yield the data sets of the engine in a data set, wrapped and joined ones included."""
    if isinstance(dataset, BaseDataset):
        yield dataset
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from base_datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from base_datasets(dataset.dataset)


def name_errors(key: str, dataset: Any) -> None:
    """Let errors inside of a data set's pipelines name it.

    Args:
        key: Where the config has it, e.g. ``"train_dataloader"``.
        dataset: Wrapped and joined ones are looked into.
    """
    for part in base_datasets(dataset):
        if not isinstance(part.pipeline, NamedPipeline):
            part.pipeline = NamedPipeline(part.pipeline, f"{key} ({type(part).__name__})")
    while hasattr(dataset, "dataset"):
        steps = vars(dataset).get("pipeline")
        if isinstance(steps, list):  # mmdet's MultiImageMixDataset
            name = f"{key} ({type(dataset).__name__})"
            dataset.pipeline = [step if isinstance(step, NamedStep) else NamedStep(step, name) for step in steps]
        dataset = dataset.dataset
