"""Batches of P identities with K images each, for losses that compare images within a batch."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from kd_mm.registry import DATA_SAMPLERS
from kd_mm.utils.suggest import warn


@DATA_SAMPLERS.register_module()
class IdentitySampler(Sampler[int]):
    """P identities times K images a batch (Hermans et al. 2017, arXiv 1703.07737, section 2), identity by identity.

    Identities come in random order, each once before any comes again, however many images they have; likewise the
    images of an identity. An identity with fewer than K images gives all of them, and some of them again. An epoch has
    as many batches as the images fill, ``len(dataset) // (P * K * processes)``, at least one: its length is fixed.
    The order depends on ``seed`` and epoch alone. All processes draw the same plan, and each takes its own batches.

    Set ``batch_size`` of the loader to ``P * K``: a sampler cannot see it, the tools check it in the config.

    Args:
        dataset: With ``get_data_info(index)["gt_label"]``, e.g. :class:`kd_mm.datasets.market1501.Market1501`.
        num_identities: P, identities in the batch of one process, at least 2.
        num_images: K, images of each identity, at least 2 for losses that need a positive pair.
        seed: Seed, the same in all processes; by default drawn once and shared between them.

    Raises:
        ValueError: P is below 2, K below 1, or the data set has no labels or fewer than P identities.
    """

    def __init__(self, dataset: Any, num_identities: int = 16, num_images: int = 4, seed: int | None = None) -> None:
        self.num_identities, self.num_images = num_identities, num_images
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        _check_counts(num_identities, num_images)
        self._images: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            label = dataset.get_data_info(index).get("gt_label")
            if label is None:
                raise ValueError("IdentitySampler: the images have no gt_label (kd_mm.Market1501: split='train')")
            self._images.setdefault(int(label), []).append(index)
        if len(self._images) < num_identities:
            raise ValueError(
                f"IdentitySampler: the data set has {len(self._images)} identities, a batch wants {num_identities}: "
                f"set num_identities to at most {len(self._images)} (and batch_size to num_identities * num_images)"
            )
        if num_images == 1:
            warn("IdentitySampler: num_images=1: no batch has two images of an identity, and a triplet loss is 0")
        few = sum(len(images) < num_images for images in self._images.values())
        if few > len(self._images) / 2:
            warn(
                f"IdentitySampler: num_images={num_images}: {few} of {len(self._images)} identities have fewer images, "
                "which repeat in a batch"
            )
        self.num_batches = max(1, len(dataset) // (num_identities * num_images * self.world_size))

    def __len__(self) -> int:
        """Return the number of images that one process sees in an epoch."""
        return self.num_batches * self.num_identities * self.num_images

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this process, ``num_images`` of one identity after the other."""
        generator = torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        identities, waiting = list(self._images), []  # type: tuple[list[int], list[int]]
        queues: dict[int, list[int]] = {identity: [] for identity in identities}
        for batch in range(self.num_batches * self.world_size):
            for identity in _take(waiting, identities, self.num_identities, generator):
                group = _take(queues[identity], self._images[identity], self.num_images, generator)
                if batch % self.world_size == self.rank:
                    yield from group


def check_identity_batches(config: Mapping[str, Any]) -> None:
    """Check that the batch size of a config's ``train_dataloader`` is that of its :class:`IdentitySampler`, if any.

    Raises:
        ValueError: ``batch_size`` is not ``num_identities * num_images``, or these are no such counts.
    """
    loader = config.get("train_dataloader") or {}
    sampler, size = loader.get("sampler"), loader.get("batch_size")
    if not isinstance(sampler, Mapping):
        return
    kind = sampler.get("type")
    if kind is not IdentitySampler and str(kind).rpartition(".")[2] != IdentitySampler.__name__:
        return
    parameters = inspect.signature(IdentitySampler).parameters
    identities, images = (sampler.get(name, parameters[name].default) for name in ("num_identities", "num_images"))
    _check_counts(identities, images)
    if size != identities * images:
        raise ValueError(
            f"train_dataloader: batch_size={size}, but its IdentitySampler makes batches of {identities} identities x "
            f"{images} images: set batch_size={identities * images}, or num_identities and num_images to fit"
        )


def _check_counts(identities: Any, images: Any) -> None:
    whole = isinstance(identities, int) and isinstance(images, int)
    if not whole or identities < 2 or images < 1:
        raise ValueError(
            f"IdentitySampler: num_identities={identities}, num_images={images}: a batch needs two identities or more, "
            "with an image of each"
        )


def _take(queue: list[int], everything: Sequence[int], count: int, generator: torch.Generator) -> list[int]:
    """Remove ``count`` items from the queue, filling it up in random order; distinct ones where there are as many."""
    if len(everything) < count:
        again = torch.randint(len(everything), (count - len(everything),), generator=generator)
        return [*everything, *(everything[i] for i in again.tolist())]
    if len(queue) < count:
        left = set(queue)
        fresh = [everything[i] for i in torch.randperm(len(everything), generator=generator).tolist()]
        queue += [item for item in fresh if item not in left] + [item for item in fresh if item in left]
    group = queue[:count]
    del queue[:count]
    return group
