"""Functions in a group of processes, over gloo."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric


def in_group(ranks: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Call ``function(rank, *arguments)`` in each process of a group; return what each returned."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_member, args=(i, ranks, function, folder, arguments)) for i in range(ranks)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * ranks
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def evaluate_share(metric: BaseMetric, samples: list[Any], count: int) -> dict[str, float]:
    """Evaluate the ``count`` samples that a sampler gives this process, the first again to fill its share."""
    indices = list(DefaultSampler(samples, shuffle=False))
    assert len(indices) == count
    for i in indices:
        metric.process(None, [samples[i].to_dict()])
    return metric.evaluate(len(samples))


def _member(rank: int, ranks: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(function(rank, *arguments), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
