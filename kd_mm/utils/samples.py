"""Data sets inside of wrappers, and one line on an error inside of their pipelines."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mmengine.dataset import BaseDataset, Compose, ConcatDataset
from mmengine.structures import BaseDataElement

from kd_mm.utils.config import as_list
from kd_mm.utils.suggest import describe_error, join_first, place

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
            SampleError: One of them failed, or left out a sample of an evaluation.
        """
        sample = data.get("img_path") or f"sample {data.get('sample_idx')}"
        for step in self.transforms:
            data = run_step(step, data, self.name, sample)
            self.dropped_by = type(step).__name__ if data is None else ""
            if data is None and not self.name.startswith("train_dataloader"):
                raise SampleError(f"{self.name}: {self.dropped_by} leaves out {sample}, which an evaluation needs")
            if data is None:
                return None
        return data


def named_sample(dataset: BaseDataset, name: str, index: int) -> Any:
    """Return a sample of a data set by its own ``prepare_data``; errors outside of its pipeline name it.

    Raises:
        SampleError: It cannot be made.
    """
    try:
        return type(dataset).prepare_data(dataset, index)
    except OneLineError:
        raise
    except Exception as error:
        if isinstance(error, IndexError) and index >= len(dataset):
            raise  # the end of an iteration over the data set
        raise SampleError(f"{name}: sample {index} fails: {describe_failure(error)}") from error


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
        what = describe_failure(error)
        if isinstance(error, KeyError) and error.args[0] in _ASKED_BY:
            option = _ASKED_BY[error.args[0]]
            what = f"an object there has no {error.args[0]!r}: give it one, or take {option}=True out of this step"
        if any(isinstance(label, str) for label in as_list(data.get("gt_label"))):
            what = f"its label is {data['gt_label']!r}: give the numbers of classes, not their names"
        if "mix_results" in what:
            what = "it mixes several images: put it into the pipeline of a MultiImageMixDataset around the data set"
        if "failed to load image" in what and sample.lower().endswith((".tif", ".tiff")):
            what += "; one of 32 bits is read by color_type='unchanged' alone: convert it to 8 or 16 bits"
        raise SampleError(f"{name}: {type(step).__name__} fails on {sample}: {what}") from error


def named_collate(collate: Callable[[Sequence[Any]], Any], key: str, samples: Sequence[Any]) -> Any:
    """Make a batch of samples by a collate function; an error names the data set ``key`` and the files.

    Raises:
        SampleError: They do not make a batch.
    """
    try:
        return collate(samples)
    except OneLineError:
        raise
    except Exception as error:
        what = describe_failure(error)
        hint = "; let the pipeline resize all images to one size" if "equal size" in what else ""
        raise SampleError(f"{key}: {files(samples)} do not make a batch: {what}{hint}") from error


def files(batch: Any) -> str:
    """Return the first files of a batch, or of the samples of one, for a message."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else batch
    names = []
    for sample in samples if isinstance(samples, Sequence) else ():
        packed = sample.get("data_samples", sample) if isinstance(sample, Mapping) else sample
        named = packed.get("img_path") if isinstance(packed, Mapping | BaseDataElement) else None
        names.append("nothing" if packed is None else str(named or "a sample without a file"))
    return join_first(names) or "a batch of unknown files"


def describe_failure(error: Exception) -> str:
    """Return one line on an error, with its kind."""
    what, kind = " ".join(describe_error(error).split()), type(error).__name__
    return what + place(error) if what == f"{kind}: {error}" else what if kind in what else f"{kind}: {what}"


def without_slice(dataset: Any) -> Any:
    """Return a data set without the engine's slice of it, the ``num_batch_per_epoch`` of a loader."""
    try:
        return dataset.full_init.__self__  # a slice hands out the methods of what it slices
    except AttributeError:
        return dataset


def base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """Yield the data sets of the engine in a data set, wrapped, joined and sliced ones included."""
    dataset = without_slice(dataset)
    if isinstance(dataset, BaseDataset):
        yield dataset
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from base_datasets(part)
    elif hasattr(dataset, "dataset"):
        yield from base_datasets(dataset.dataset)


def name_errors(key: str, loader: Any) -> None:
    """Let errors in the pipelines of a loader's data set, and in making batches, name its ``key`` in the config."""
    loader.collate_fn = partial(named_collate, loader.collate_fn, key)
    name_pipelines(key, loader.dataset)


def name_pipelines(key: str, dataset: Any) -> None:
    """Let errors inside of the pipelines of a data set, wrapped or joined, name its ``key`` in the config."""
    for part in base_datasets(dataset):
        if not isinstance(part.pipeline, NamedPipeline):
            name = f"{key} ({type(part).__name__})"
            part.pipeline = NamedPipeline(part.pipeline, name)
            vars(part)["prepare_data"] = partial(named_sample, part, name)
    for mixing in mixing_datasets(dataset):
        name = f"{key} ({type(mixing).__name__})"
        mixing.pipeline = [step if isinstance(step, NamedStep) else NamedStep(step, name) for step in mixing.pipeline]


def mixing_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the wrappers of a data set that have steps of their own, such as mmdet's ``MultiImageMixDataset``."""
    dataset = without_slice(dataset)
    while hasattr(dataset, "dataset"):
        if isinstance(vars(dataset).get("pipeline"), list):
            yield dataset
        dataset = dataset.dataset
