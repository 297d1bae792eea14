"""A data loader that can go on in the middle of a pass over its data."""

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from kd_mm.utils.contexts import capture_random_state, restore_random_state


class ResumableLoader(DataLoader):
    """Yields the batches of another loader, and can begin after those that an interrupted pass has used.

    The used batches are not loaded again. What a worker process draws for a batch depends on ``seed``, the pass and the
    number of the batch, and neither on the batches before it nor on the number of workers. Without workers the random
    numbers are those of the other loader.

    Args:
        loader: A loader over an indexable data set, with a batch sampler.
        seed: What distinguishes this process's random numbers from others': numbers from 0.
    """

    batch_sampler: Any

    def __init__(self, loader: DataLoader, seed: Sequence[int]) -> None:
        self.position = self.passes = 0
        super().__init__(
            loader.dataset,
            batch_sampler=_BatchSampler(loader.batch_sampler, seed),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=partial(_start_worker, loader.worker_init_fn),
            multiprocessing_context=loader.multiprocessing_context,
            # Workers that live on draw once only; then a resumed run would draw once more from the global generator.
            generator=torch.Generator() if loader.persistent_workers else loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    @property
    def batch_size(self) -> int | None:
        """Return the size of a batch; hooks of upstream read it. The base class has none beside a batch sampler."""
        return int(self.batch_sampler.batch_size)

    @batch_size.setter
    def batch_size(self, value: int | None) -> None:
        """Ignore what the base class sets."""

    def state_dict(self) -> dict[str, Any]:
        """Return what another process needs to go on from here, as plain values."""
        sampler_seed = vars(self.batch_sampler.sampler).get("seed")  # drawn by each process if the config has none
        return {"position": self.position, "passes": self.passes, "sampler_seed": sampler_seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next pass go on where ``state`` was captured."""
        self.position, self.passes = state["position"], state["passes"]
        self.batch_sampler.skip = self.position
        if state["sampler_seed"] is not None:
            self.batch_sampler.sampler.seed = state["sampler_seed"]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.batch_sampler.passes = self.passes
        if not self.batch_sampler.skip:
            self.position = 0
            return self._count(super().__iter__())
        random_state = capture_random_state()
        batches = super().__iter__()
        restore_random_state(random_state)  # what starting a pass draws was drawn before the interruption
        return self._count(batches)

    def _count(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self.position += 1
            yield batch
        self.position = 0
        self.passes += 1


class EndlessBatches:
    """Batches of one pass after the other, as ``IterBasedTrainLoop.dataloader_iterator``."""

    def __init__(self, loader: ResumableLoader) -> None:
        self._batches = self._passes(loader)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing when a run is resumed: the loader itself goes on at its position."""

    def __next__(self) -> Any:
        return next(self._batches)

    @staticmethod
    def _passes(loader: ResumableLoader) -> Iterator[Any]:
        sampler = loader.batch_sampler.sampler
        while True:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(loader.passes)
            yield from loader


def _start_worker(start: Callable[[int], None] | None, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers, too; the main process stops them
    if start is not None:
        start(number)


class _BatchSampler:
    """Batches of indices; the next pass leaves out the first ``skip``."""

    def __init__(self, batches: Any, seed: Sequence[int]) -> None:
        self.batches, self.seed = batches, seed
        self.sampler, self.batch_size = batches.sampler, batches.batch_size  # hooks read them
        self.skip = self.passes = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        batches, skip, self.skip = iter(self.batches), self.skip, 0
        count = sum(1 for _ in islice(batches, skip))
        if count < skip:
            raise ValueError(
                f"cannot resume at batch {skip}: the training data now gives {count} batches; resume with the data, "
                "the batch size and the by_epoch of the run so far, or start anew from its weights by load_from"
            )
        for number, batch in enumerate(batches, skip):
            yield _Batch(batch, (*self.seed, self.passes, number))


class _Batch(list[int]):
    """Indices of one batch; a worker sets its random states when it begins to load them."""

    def __init__(self, indices: list[int], seeds: tuple[int, ...]) -> None:
        super().__init__(indices)
        self.seeds = seeds

    def __iter__(self) -> Iterator[int]:
        if get_worker_info() is not None:
            seed = int(np.random.SeedSequence(self.seeds).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        return super().__iter__()
