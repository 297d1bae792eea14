"""A data loader that can go on in the middle of a pass over its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from kd_mm.utils.contexts import capture_random_state, restore_random_state


class ResumableLoader(DataLoader):
    """Yields the batches of another loader and records its position: batches used, random state of each worker.

    A resumed pass leaves the used batches out without loading them. Each worker goes on from its random state after its
    last used batch, whatever it had prefetched. A pass from the beginning draws the other loader's random numbers.

    Args:
        loader: A loader over an indexable data set, with a batch sampler.
    """

    batch_sampler: Any

    def __init__(self, loader: DataLoader) -> None:
        self.position = self.passes = 0
        self._workers: dict[int, dict[str, Any]] = {}
        super().__init__(
            loader.dataset,
            batch_sampler=_BatchSampler(loader.batch_sampler, max(loader.num_workers, 1)),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what another process needs to go on from here, as plain values."""
        sampler, init = self.batch_sampler, self.worker_init_fn
        return {
            "position": self.position,
            "passes": self.passes,
            "begin": sampler.begin,
            "num_workers": self.num_workers,
            "alive": self._alive,
            "workers": dict(self._workers) if self._alive or self.position else {},
            # Where the config has no seed, each process draws its own.
            "worker_seed": init.keywords.get("seed") if isinstance(init, partial) else None,
            "sampler_seeds": [vars(each).get("seed") for each in sampler.samplers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next pass go on where ``state`` was captured; the global random states stay as they are."""
        self.position = self.batch_sampler.skip = state["position"]
        self.batch_sampler.begin, self.passes = state["begin"], state["passes"]
        self._workers = dict(state["workers"])
        for sampler, seed in zip(self.batch_sampler.samplers, state["sampler_seeds"], strict=True):
            if seed is not None:
                sampler.seed = seed
        if state["worker_seed"] is not None and isinstance(self.worker_init_fn, partial):
            self.worker_init_fn = partial(self.worker_init_fn, seed=state["worker_seed"])
        if state["alive"] and self.persistent_workers:
            # Started by an empty pass: the next one finds them running, as it would have without the interruption.
            random_state = capture_random_state()
            self.batch_sampler.closed = True
            self._start()
            self.batch_sampler.closed = False
            restore_random_state(random_state)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self.batch_sampler.skip:
            self.position, self._workers = 0, self._workers if self._alive else {}
            return self._count(self._start())
        random_state = capture_random_state()
        batches = self._start()
        self.batch_sampler.skip = 0
        restore_random_state(random_state)
        return self._count(batches)

    @property
    def _alive(self) -> bool:
        return self.persistent_workers and self._iterator is not None

    def _start(self) -> Iterator[Any]:
        """Start a pass; workers that start with it begin with the random states of ``self._workers``."""
        collate, init = self.collate_fn, self.worker_init_fn
        self.collate_fn, self.worker_init_fn = partial(_collate, collate), partial(_initialise, init, self._workers)
        try:
            return super().__iter__()
        finally:
            self.collate_fn, self.worker_init_fn = collate, init

    def _count(self, batches: Iterator[Any]) -> Iterator[Any]:
        for worker, state, batch in filter(None, batches):
            self.position += 1
            if worker is not None:
                self._workers[worker] = state
            yield batch
        self.position = 0


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
            loader.passes += 1


class _BatchSampler:
    """Batches of indices; the next pass can leave out the first ones, which were used before the run was stopped."""

    def __init__(self, batches: Any, workers: int) -> None:
        self.batches, self.workers = batches, workers
        self.sampler, self.batch_size = batches.sampler, batches.batch_size  # hooks read them
        self.samplers = [batches, batches.sampler]
        self.begin: dict[str, Any] | None = None  # the random states when the current pass began
        self.skip, self.closed = 0, False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        if self.closed:
            return iter(())
        if self.skip and self.begin is not None:
            restore_random_state(self.begin)
        else:
            self.begin = capture_random_state()
        batches = iter(self.batches)
        count = sum(1 for _ in islice(batches, self.skip))
        if count < self.skip:
            raise ValueError(f"cannot resume at batch {self.skip}: the training data now gives {count} batches")
        # A blank batch for each worker that had its turn already in this round.
        return chain(repeat([], self.skip % self.workers), batches)


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any]) -> tuple[Any, Any, Any] | None:
    """Add the worker and its random states to a batch; an empty list of samples is a blank batch."""
    if len(samples) == 0:
        return None
    batch, worker = collate(samples), get_worker_info()
    return (None, None, batch) if worker is None else (worker.id, capture_random_state(), batch)


def _initialise(init: Callable[[int], None] | None, states: dict[int, dict[str, Any]], worker: int) -> None:
    if init is not None:
        init(worker)
    if worker in states:
        restore_random_state(states[worker])
