"""Training images that lie on the device and are augmented there."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.dataset import BaseDataset, Compose
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement
from mmpretrain.datasets.transforms import CenterCrop, PackInputs, ResizeEdge
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from kd_mm.engine.batch_transforms import BATCH_TRANSFORMS, BatchTransform
from kd_mm.registry import HOOKS
from kd_mm.utils.contexts import isolated_rng, unwrapped

#: Transforms without random numbers, applied once to each image.
_ONCE = (LoadImageFromFile, Resize, ResizeEdge, CenterCrop)
#: Hooks that give the data set another pipeline on the way.
_SWITCHES = ("PipelineSwitchHook", "SwitchRecipeHook")


@HOOKS.register_module()
class DeviceLoader(Hook):
    """Keeps the training images on the device as uint8 and makes the batches of the training loop there.

    Each image is read once, by the pipeline up to its first random transform. Crop, flip, erasing and cutout are then
    drawn and applied for a batch at once, with the distribution that the pipeline has. Batches follow the loop's own
    sampler and hold labels and metainfo as the pipeline packs them, without what it notes of its draws (``flip``, and
    ``img_shape`` after a crop). The random numbers come from the run's seed and differ between the processes of a
    distributed run; a resumed run goes on exactly (:class:`kd_mm.ExactResumeHook`). Preparations of teachers have their
    batches from here, too.

    In a config: ``default_hooks = dict(device_loader=dict(type="kd_mm.DeviceLoader"))``.

    Args:
        memory_fraction: Share of the free memory of the device that the images may take. Default 0.5.

    Attributes:
        images: The images, from the beginning of the training on.
    """

    images: DeviceImages | None = None
    priority = "HIGH"  # after the check for missing images, before anything is prepared on a teacher

    def __init__(self, memory_fraction: float = 0.5) -> None:
        self.memory_fraction = memory_fraction

    def before_train(self, runner: Runner) -> None:
        """Load the images and have the training loop take its batches from them.

        Raises:
            ValueError: A pipeline that cannot be reproduced, images of several sizes, or too little memory.
        """
        loop, begin = runner.train_loop, time.perf_counter()
        for name in (type(hook).__name__ for hook in runner.hooks):
            if name in _SWITCHES:
                raise ValueError(f"device data: {name} changes the pipeline on the way, so it cannot be used with it")
        model = unwrapped(runner)
        # Preprocessors that make soft labels write them into the samples.
        soft = bool(getattr(model.data_preprocessor, "to_onehot", False))
        images = DeviceImages(loop.dataloader.dataset, torch.device(get_device()), self.memory_fraction, soft)
        self.images = images
        loop.dataloader = images.loader(loop.dataloader)
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
        tensor, seconds = images.images, time.perf_counter() - begin
        runner.logger.info(
            f"{len(tensor)} images, {tensor.nbytes / 2**20:.1f} MiB, are on {tensor.device} after {seconds:.1f} s."
        )


class DeviceImages(Dataset):
    """The images of a data set on a device, of which batches are made.

    Args:
        dataset: With a ``pipeline`` of transforms that this module knows, which ends in ``PackInputs``.
        device: For the images.
        memory_fraction: Share of its free memory that they may take.
        fresh_samples: Make the data samples of each batch anew, for models that write into them. Otherwise they are
            made once, as mmengine's elements with labels on the device, which mmpretrain's preprocessor leaves alone.

    Raises:
        ValueError: A pipeline that cannot be reproduced, images of several sizes, or too little memory.
    """

    def __init__(self, dataset: Any, device: torch.device, memory_fraction: float, fresh_samples: bool) -> None:
        plain, random = _split_pipeline(dataset)
        self.dataset, self.metainfo, self.generator = dataset, dataset.metainfo, torch.Generator(device)
        with isolated_rng("device data"):
            first = plain[0]["inputs"]
            self.transforms = self._transforms(random, first.to(device)[None])
            _require_memory(len(plain) * first.nbytes, device, memory_fraction)
            images, packed = torch.empty(len(plain), *first.shape, dtype=torch.uint8), []
            for index, sample in enumerate(plain):
                if sample["inputs"].shape != first.shape:
                    raise ValueError(
                        f"device data: image 0 has {_size(first)} pixels, image {index} {_size(sample['inputs'])}: "
                        "begin the pipeline of train_dataloader with a Resize to one size"
                    )
                images[index] = sample["inputs"]
                packed.append(sample["data_samples"])
        self.images = images.to(device)
        self.kind = type(packed[0]) if fresh_samples else BaseDataElement
        self.metas = [sample.metainfo for sample in packed]
        self.fields = {}
        for name in packed[0].keys():  # noqa: SIM118 - an element is no mapping
            values = [sample.get(name) for sample in packed]
            self.fields[name] = torch.cat(values).to(device).split([len(value) for value in values])
        self.samples = None if fresh_samples else [self._sample(index) for index in range(len(packed))]

    def loader(self, like: DataLoader, chosen: Sequence[int] | None = None) -> DataLoader:
        """Return a loader with the batches of indices that another has, which count in ``chosen`` where it is given."""
        data = self if chosen is None else Subset(self, chosen)
        if like.batch_size is None:
            return DataLoader(data, batch_sampler=like.batch_sampler, collate_fn=_as_it_is)
        return DataLoader(data, like.batch_size, sampler=like.sampler, drop_last=like.drop_last, collate_fn=_as_it_is)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """Return the batch of these images: ``inputs``, uint8 ``(B, C, H, W)``, and ``data_samples``."""
        # A seed from the global state, which a resumed run has again, for a generator on the device.
        self.generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()) + get_rank())
        images = self.images.index_select(0, torch.tensor(indices).to(self.images.device, non_blocking=True))
        for transform in self.transforms:
            images = transform(images, self.generator)
        samples = [self.samples[index] if self.samples else self._sample(index) for index in indices]
        return {"inputs": images, "data_samples": samples}

    def _transforms(self, transforms: Sequence[Any], images: Tensor) -> list[BatchTransform]:
        if images.dtype != torch.uint8:
            raise ValueError(f"device data: the pipeline gives images of {images.dtype}, not torch.uint8")
        found = []
        for transform in transforms:
            try:
                found.append(BATCH_TRANSFORMS[type(transform)](transform, tuple(images.shape[1:]), images.device))
            except ValueError as error:
                raise ValueError(f"device data: {error}") from None
            images = found[-1](images, self.generator)
        return found

    def _sample(self, index: int) -> BaseDataElement:
        fields = {name: values[index] for name, values in self.fields.items()}
        return self.kind(metainfo=self.metas[index], **fields)


def _as_it_is(batch: Any) -> Any:
    return batch


def _split_pipeline(dataset: Any) -> tuple[Any, list[Any]]:
    """Return a data set without the random transforms of its pipeline, and these."""
    if not isinstance(dataset, BaseDataset):
        raise ValueError(f"device data: {type(dataset).__name__} has no pipeline of its own; give its data set alone")
    steps, random = dataset.pipeline.transforms, []
    known = ", ".join(each.__name__ for each in (*_ONCE, *BATCH_TRANSFORMS, PackInputs))
    for number, step in enumerate(steps):
        last = number + 1 == len(steps)
        if type(step) in BATCH_TRANSFORMS and not last:
            random.append(step)
        elif (type(step) is PackInputs and not step.algorithm_keys) if last else type(step) in _ONCE and not random:
            continue
        else:
            raise ValueError(
                f"device data: step {number + 1} of the pipeline of train_dataloader, {step}, is not reproduced on the "
                f"device; known are, in this order, {known}"
            )
    plain = copy.copy(dataset)
    plain.pipeline = Compose([step for step in steps if type(step) not in BATCH_TRANSFORMS])
    return plain, random


def _require_memory(needed: int, device: torch.device, fraction: float) -> None:
    if device.type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    elif Path("/proc/meminfo").is_file():
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    else:
        return  # unknown here
    if needed > fraction * free:
        raise ValueError(
            f"device data: the images need {needed:,} bytes, more than {fraction:g} of the {free:,} bytes free on "
            f"{device}: train without device data, or raise default_hooks.device_loader.memory_fraction"
        )


def _size(image: Tensor) -> str:
    return "x".join(map(str, image.shape[1:]))
