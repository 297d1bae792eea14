"""A data loader that knows its place: which batch is next, and the random states of its workers after each batch."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from mmengine.logging import MMLogger
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kd_mm.hooks.random_state import RandomState, capture_random_state, pack, restore_random_state


class _Stamped(NamedTuple):
    batch: Any
    worker: int
    state: RandomState | None
    skipped: bool


class _StampingCollate:
    """Collates as before and attaches the worker's random states; an empty list of samples is a skipped batch."""

    def __init__(self, collate: Callable[[list], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list) -> _Stamped:
        worker = get_worker_info()
        number = -1 if worker is None else worker.id
        if len(samples) == 0:
            return _Stamped(None, number, None, True)
        batch = self.collate(samples)
        # Arrays, not tensors: each tensor sent by a worker costs a file descriptor.
        return _Stamped(batch, number, None if worker is None else capture_random_state(cuda=False), False)


class _SeededWorker:
    """Starts a worker as before, then gives it the random states it had when the run was stopped."""

    def __init__(self, init: Callable[[int], None] | None, states: dict[int, RandomState]) -> None:
        self.init = init
        self.states = states

    def __call__(self, worker: int) -> None:
        if self.init is not None:
            self.init(worker)
        if worker in self.states:
            restore_random_state(self.states[worker])


class _CountingSampler:
    """The loader's index sampler; leaves out the batches that were done before the run was stopped."""

    def __init__(self, sampler: Any, place: Place) -> None:
        self.sampler = sampler
        self.place = place

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["sampler"], name)

    def __iter__(self) -> Iterator[Any]:
        place = self.place
        if place.sampler_state is not None:
            restore_random_state(place.sampler_state)
            place.sampler_state = None
        batches = iter(self.sampler)
        skip, blanks = place.skip, place.blanks
        place.skip = 0
        checksum = 0
        for number in range(skip):
            indices = next(batches, None)
            if indices is None:
                raise ValueError(
                    f"cannot resume at batch {skip}: the training data now gives {number} batches; use the data set "
                    "and batch size that the checkpoint was made with"
                )
            checksum = zlib.crc32(repr(indices).encode(), checksum)
            if number == skip - 1:
                place.skipped_checksum = checksum
            if number >= skip - blanks:
                yield []
        for indices in batches:
            checksum = zlib.crc32(repr(indices).encode(), checksum)
            place.ahead.append(checksum)
            yield indices


class _LivingWorkers:
    """Stands for the iterator of a loader whose persistent workers were alive when the run was stopped.

    Starting workers draws from the main process's random state; going on with living ones does not. A hook that
    discards a loader's iterator discards this too, and with it the old states, as it should.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def _reset(self, loader: DataLoader, first_iter: bool = False) -> None:
        # The new workers' first indices are asked for while they start; set back by then, the seed was never drawn.
        self.place.sampler_state = capture_random_state(cuda=False)
        loader._iterator = None
        DataLoader.__iter__(loader)


class Place:
    """Where a training loader stands within its current pass over the data."""

    def __init__(self) -> None:
        self.consumed = 0
        self.finished = True
        self.begin: RandomState | None = None
        self.was_alive = False
        self.workers: dict[int, RandomState] = {}
        self.checksum = 0
        self.ahead: deque[int] = deque()
        self.sampler_state: RandomState | None = None
        self.skip = 0
        self.blanks = 0
        self.skipped_checksum = 0
        self._resumed: dict[str, Any] | None = None

    def state_dict(self, loader: DataLoader) -> dict[str, Any]:
        """What the next process needs to go on from here, as tensors and plain values."""
        alive = _has_living_workers(loader)
        middle = not self.finished and self.begin is not None
        state: dict[str, Any] = {
            "consumed": self.consumed if middle else 0,
            "checksum": self.checksum,
            "num_workers": loader.num_workers,
            "alive": self.was_alive if middle else alive,
            "workers": {number: pack(s) for number, s in self.workers.items()} if middle or alive else {},
            "seeds": _seeds(loader),
        }
        if middle and self.begin is not None:
            state["begin"] = pack(self.begin)
        return state

    def load_state_dict(self, loader: DataLoader, state: dict[str, Any], main: RandomState) -> None:
        """Make the next pass of ``loader`` go on where ``state`` was taken.

        Args:
            loader: A loader that :func:`follow` has prepared.
            state: From :meth:`state_dict`.
            main: The main process's random states at that point, set once the skipped batches are past.
        """
        _set_seeds(loader, state["seeds"])
        if state["alive"] and loader.num_workers > 0 and loader.persistent_workers:
            loader._iterator = _LivingWorkers(self)  # type: ignore[assignment]
        # A checkpoint may come before the next pass, and must hand them on.
        self.workers = dict(state["workers"])
        self._resumed = {**state, "main": main}

    def iterate(self, loader: DataLoader, begin: Callable[[], Any]) -> Iterator[Any]:
        """Start one pass; ``begin`` makes the loader's own iterator."""
        resumed, self._resumed = self._resumed, None
        states = self._starting_states(loader, resumed)
        if resumed is not None and resumed["consumed"]:
            _set_seeds(loader, resumed["seeds"])
            restore_random_state({**resumed["begin"]})
            self.skip = resumed["consumed"]
            # Whole rounds can be left out; the rest is passed as empty batches, so that each worker keeps its turn.
            each_round = max(loader.num_workers, 1)
            self.blanks = self.skip % each_round or each_round
        self.begin = capture_random_state(cuda=False)
        self.was_alive = _has_living_workers(loader)
        self.workers = states if resumed is not None else self.workers if self.was_alive else {}
        self.consumed, self.checksum, self.finished = 0, 0, False
        self.ahead.clear()
        collate, init = loader.collate_fn, loader.worker_init_fn
        loader.collate_fn = _StampingCollate(collate)
        if states:
            loader.worker_init_fn = _SeededWorker(init, states)
        try:
            batches = begin()
        finally:
            loader.collate_fn, loader.worker_init_fn = collate, init
        return self._pass(batches, resumed)

    def _starting_states(self, loader: DataLoader, resumed: dict[str, Any] | None) -> dict[int, RandomState]:
        if resumed is None or not (resumed["consumed"] or isinstance(loader._iterator, _LivingWorkers)):
            return {}
        return dict(resumed["workers"])

    def _pass(self, batches: Any, resumed: dict[str, Any] | None) -> Iterator[Any]:
        blanks = self.blanks
        for item in batches:
            if item.skipped:
                blanks -= 1
                if blanks == 0 and resumed is not None:
                    self._arrive(resumed)
                continue
            self.consumed += 1
            self.checksum = self.ahead.popleft()
            if item.state is not None:
                self.workers[item.worker] = item.state
            yield item.batch
        self.finished, self.consumed = True, 0

    def _arrive(self, resumed: dict[str, Any]) -> None:
        self.consumed, self.checksum = resumed["consumed"], self.skipped_checksum
        if self.checksum != resumed["checksum"]:
            MMLogger.get_current_instance().warning(
                f"The order of the training data is not that of the stopped run (before batch {self.consumed}): its "
                "sampler keeps a random state of its own, or the data changed. The resumed run will differ from an "
                "uninterrupted one."
            )
        restore_random_state(resumed["main"])


class _FollowedLoader(DataLoader):
    place: Place

    @property
    def _index_sampler(self) -> Any:
        return _CountingSampler(super()._index_sampler, self.place)

    def __iter__(self) -> Any:
        return self.place.iterate(self, super().__iter__)


def follow(loader: DataLoader) -> Place:
    """Make ``loader`` keep track of its place. It stays the same object and gives the same batches.

    Hooks change a loader's attributes in place and test its type, so it is given a subclass of its own class instead
    of being wrapped.

    Args:
        loader: A loader over an indexable data set, with batches made by the loader.

    Returns:
        The place, kept up to date by each pass.

    Raises:
        ValueError: The loader's position cannot be counted in batches of indices.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError("its data set is iterable, without indices to skip")
    if loader.batch_sampler is None:
        raise ValueError("it makes no batches (batch_size=None)")
    if not getattr(loader, "in_order", True):
        raise ValueError("its workers deliver in any order (in_order=False)")
    if isinstance(loader, _FollowedLoader):
        return loader.place
    loader.place = Place()
    kind = type(loader)
    loader.__class__ = type(kind.__name__, (_FollowedLoader, kind), {"__module__": kind.__module__})
    return loader.place  # type: ignore[attr-defined]


def _has_living_workers(loader: DataLoader) -> bool:
    return loader.num_workers > 0 and loader.persistent_workers and loader._iterator is not None


def _samplers(loader: DataLoader) -> list[Any]:
    batch_sampler = loader.batch_sampler
    return [loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]


def _seeds(loader: DataLoader) -> dict[str, Any]:
    """Seed and epoch of each sampler and the workers' seed: mmengine draws them anew where the config gives none."""
    samplers = [
        {name: value for name in ("seed", "epoch") if isinstance(value := getattr(sampler, name, None), int)}
        for sampler in _samplers(loader)
    ]
    init = loader.worker_init_fn
    return {"samplers": samplers, "worker": init.keywords.get("seed") if isinstance(init, partial) else None}


def _set_seeds(loader: DataLoader, seeds: dict[str, Any]) -> None:
    for sampler, values in zip(_samplers(loader), seeds["samplers"], strict=True):
        for name, value in values.items():
            if name == "epoch" and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(value)
            elif hasattr(sampler, name):
                setattr(sampler, name, value)
    init = loader.worker_init_fn
    if isinstance(init, partial) and seeds["worker"] is not None and "seed" in init.keywords:
        loader.worker_init_fn = partial(init.func, *init.args, **{**init.keywords, "seed": seeds["worker"]})
