"""Time kd_mm's re-identification measures against plain programs, round by round, and their cost as galleries grow.

Every measurement has a process of its own, forked from one that holds the features, so that its peak memory is what it
needs beyond them. Features are made up: people are points, images of one scatter around it, 1 in 6 shows nobody.
"""

import argparse
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import kd_mm  # noqa: F401 - registers everything
from kd_mm.apis.cli import ClearErrors
from kd_mm.evaluation import ReRanking, evaluate_reid
from kd_mm.evaluation.reid import measures
from kd_mm.evaluation.reid_distances import Distances
from kd_mm.evaluation.reid_inputs import Images
from kd_mm.evaluation.reid_ranks import GalleryRanks

Array = NDArray[Any]
#: Length of the CMC curve.
RANKS = 50
#: Rows of re-ranked distances that are compared.
COMPARED = 50


@dataclass
class People:
    """Queries and gallery: features, person ids, camera ids."""

    query: Array
    gallery: Array
    qpids: Array
    gpids: Array
    qcams: Array
    gcams: Array

    def sides(self) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
        return (self.query, self.qpids, self.qcams), (self.gallery, self.gpids, self.gcams)


def make_people(queries: int, gallery: int, length: int, people: int, seed: int) -> People:
    """Return features that vary in 64 directions, as those of a network vary in far fewer than they have."""
    random = np.random.default_rng(seed)
    inner = min(64, length)
    centres = random.standard_normal((people + 1, inner), dtype=np.float32)
    spread = random.standard_normal((inner, length), dtype=np.float32) if length > inner else None
    qpids = random.integers(1, people + 1, queries)
    gpids = np.where(random.random(gallery) < 1 / 6, 0, random.integers(1, people + 1, gallery))

    def features(pids: Array) -> Array:
        noise = random.standard_normal((len(pids), inner), dtype=np.float32)
        inside = np.where(pids[:, None] == 0, 1.5 * noise, centres[pids] + 1.1 * noise)
        return inside if spread is None else inside @ spread

    return People(
        features(qpids), features(gpids), qpids, gpids, random.integers(0, 6, queries), random.integers(0, 6, gallery)
    )


def matrix(data: People) -> Array:
    """Return all cosine distances ``(Q, G)``."""
    query, gallery = torch.from_numpy(data.query), torch.from_numpy(data.gallery)
    return next(iter(Distances(query, gallery, "cosine", len(query)).blocks()))[1]


def rank_ours(data: People, distances: Array) -> dict[str, Any]:
    """Return all measures from places that are found without ranking."""
    query, gallery = (Images(torch.from_numpy(side[0]), *side[1:]) for side in data.sides())
    return measures([GalleryRanks(gallery).find(distances, data.qpids, data.qcams)], query, RANKS)


def rank_by_argsort(data: People, distances: Array, kind: Any, precisions: Callable[[Array], Array]) -> dict[str, Any]:
    """Return CMC, mAP and mINP as evaluators have them that are written in Python with NumPy.

    It stands for those of deep-person-reid (torchreid) and fast-reid where their Cython was not compiled: rank the
    gallery by argsort, drop the person's images from the query's camera, sum up along the rest. Spared are their
    ranking of all queries at once (0.4 GB) and, but in the row that says so, a Python number for each precision.

    Args:
        data: The images.
        distances: ``(Q, G)``.
        kind: Of ``np.argsort``.
        precisions: Gives, from how many right images stand at each place or before, the precision at each place.
    """
    curves, average_precisions, penalties = [], [], []
    for row, pid, camera in zip(distances, data.qpids, data.qcams, strict=True):
        order = np.argsort(row, kind=kind)
        right = data.gpids[order] == pid
        right = right[~(right & (data.gcams[order] == camera))]
        if not right.any():
            continue
        found = right.cumsum()
        curves.append(np.minimum(found[:RANKS], 1))
        last = np.flatnonzero(right)[-1]
        penalties.append(found[last] / (last + 1))
        average_precisions.append(precisions(found)[right].sum() / found[-1])
    return {"mAP": np.mean(average_precisions), "mINP": np.mean(penalties), "cmc": np.mean(curves, axis=0)}


def precisions_at_once(found: Array) -> Array:
    return np.asarray(found / np.arange(1, len(found) + 1))


def precisions_one_by_one(found: Array) -> Array:
    return np.array([count / place for place, count in enumerate(found, 1)])


def rerank_ours(data: People) -> Array:
    """Return every n-th row of the re-ranked distances; all are computed."""
    step, rows = max(len(data.query) // COMPARED, 1), []
    ranking = ReRanking(torch.from_numpy(data.query), torch.from_numpy(data.gallery))
    for start, block in ranking.blocks():
        rows.append(block[-start % step :: step].copy())
    return np.concatenate(rows)


def rerank_dense(data: People, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Array:
    """Return the same from whole matrices over queries and gallery, as the method is usually written."""
    queries = len(data.query)
    features = np.concatenate([data.query, data.gallery])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    distances = 2 - 2 * features @ features.T
    distances /= distances.max(axis=1, keepdims=True)
    ranking = np.argsort(distances, axis=1).astype(np.int32)

    def mutual(i: int, k: int) -> Array:
        near = ranking[i, : k + 1]
        return near[(ranking[near, : k + 1] == i).any(axis=1)]

    weights = np.zeros_like(distances)
    for i in range(len(features)):
        near = mutual(i, k1)
        whole = [near]
        for j in near:
            other = mutual(j, round(k1 / 2))
            if len(np.intersect1d(other, near)) > 2 / 3 * len(other):
                whole.append(other)
        members = np.unique(np.concatenate(whole))
        weight = np.exp(-distances[i, members])
        weights[i, members] = weight / weight.sum()
    distances = distances[:queries].copy()
    weights = np.stack([weights[ranking[i, :k2]].mean(axis=0) for i in range(len(features))])
    holders = [np.flatnonzero(column) for column in weights.T]
    for i in range(queries):
        shared = np.zeros(len(features), dtype=np.float32)
        for j in np.flatnonzero(weights[i]):
            shared[holders[j]] += np.minimum(weights[i, j], weights[holders[j], j])
        distances[i] = (1 - lambda_value) * (1 - shared / (2 - shared)) + lambda_value * distances[i]
    return distances[:: max(queries // COMPARED, 1), queries:]


def memory(kind: str) -> int:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak) of this process in bytes."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def measured(run: Callable[..., Any], prepare: Callable[[], Any] | None = None) -> tuple[float, float, int, Any]:
    """Return wall seconds, CPU seconds, bytes beyond what was there before, and the result, from a forked process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        given = [] if prepare is None else [prepare()]
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far does not count
        before, cpu, start = memory("VmRSS"), time.process_time(), time.perf_counter()
        result = run(*given)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        there.send((seconds, cpu, memory("VmHWM") - before, result))

    worker = context.Process(target=work)
    worker.start()
    there.close()
    try:
        found: tuple[float, float, int, Any] = here.recv()
    except EOFError:
        worker.join()
        raise RuntimeError(f"a measurement ended with exit code {worker.exitcode}: not enough memory?") from None
    worker.join()
    return found


def rounds(runs: dict[str, tuple[Callable[..., Any], Any]], repeats: int) -> dict[str, list[Any]]:
    """Run all of them in turn, as often as said; return median seconds, CPU seconds, bytes and the result of each."""
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, prepare) in runs.items():
            found[name].append(measured(run, prepare))
    return {
        name: [statistics.median(row[i] for row in rows) for i in range(3)] + [rows[0][3]]
        for name, rows in found.items()
    }


def table(title: str, found: dict[str, list[Any]], last: str, say: Callable[[Any], str]) -> Table:
    """Return a table whose ratios are to its first row."""
    made = Table("what", "seconds", "ratio", "CPU s", "ratio", "peak MiB", "ratio", last, title=title)
    first = next(iter(found.values()))
    for name, (seconds, cpu, size, result) in found.items():
        ratios = f"{seconds / first[0]:.1f}", f"{cpu / first[1]:.1f}", f"{size / max(first[2], 1):.1f}"
        shown = f"{seconds:.3f}", f"{cpu:.3f}", f"{size / 2**20:.0f}"
        made.add_row(name, *(cell for pair in zip(shown, ratios, strict=True) for cell in pair), say(result))
    return made


def growth(args: argparse.Namespace, console: Console) -> None:
    """Print what a gallery of 1, 10 and 100 times the size costs."""
    length, small = min(args.growth_length, args.length), max(args.gallery // 40, 1)
    title = f"growing galleries, features of length {length}"
    made = Table("what", "queries", "gallery", "seconds", "CPU s", "peak MiB", title=title)
    for what, base, queries in (
        ("evaluate_reid", args.gallery, args.queries),
        ("re-ranking", small, args.queries // 8),
    ):
        for factor in (1, 10, 100):
            if factor > args.growth:
                continue
            data = make_people(max(queries, 1), base * factor, length, args.people, args.seed)
            run = (lambda data=data: rerank_ours(data)[:0]) if what == "re-ranking" else lambda data=data: whole(data)
            seconds, cpu, size, _ = measured(run)
            row = f"{len(data.query):,}", f"{base * factor:,}", f"{seconds:.2f}", f"{cpu:.2f}", f"{size / 2**20:.0f}"
            made.add_row(f"{what}, {factor}x", *row)
    console.print(made)


def whole(data: People) -> dict[str, Any]:
    """Return all measures, from the features."""
    return evaluate_reid(*(part for pair in zip(*data.sides(), strict=True) for part in pair))


def percent(found: dict[str, Any]) -> str:
    return " ".join(f"{100 * value:.4f}" for value in (found["mAP"], found["mINP"], found["cmc"][0]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--length", type=int, default=2048, help="of a feature (default: %(default)s)")
    parser.add_argument("--people", type=int, default=750)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the ranking (default: %(default)s)")
    parser.add_argument("--toolkit-repeats", type=int, default=1, help="of the slowest one; 0: none (default: 1)")
    parser.add_argument("--rerank-repeats", type=int, default=1, help="rounds of re-ranking; 0: none (default: 1)")
    parser.add_argument(
        "--growth", type=int, default=100, help="largest growth of the gallery; 0: none (default: %(default)s)"
    )
    parser.add_argument("--growth-length", type=int, default=64, help="of features there (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if min(args.queries, args.gallery, args.length, args.people, args.repeats) < 1:
        raise ValueError("--queries, --gallery, --length, --people and --repeats must be at least 1")
    console = Console(width=118)
    data = make_people(args.queries, args.gallery, args.length, args.people, args.seed)
    size = f"{args.queries:,} x {args.gallery:,} x {args.length:,}, {torch.get_num_threads()} threads"
    prepare = lambda: matrix(data)  # noqa: E731 - shared by all rows but one
    rows: dict[str, Callable[[Any], dict[str, Any]]] = {
        "kd_mm, places of right images": lambda found: rank_ours(data, found),
        "argsort of each query": lambda found: rank_by_argsort(data, found, None, precisions_at_once),
        "stable argsort of each query": lambda found: rank_by_argsort(data, found, "stable", precisions_at_once),
    }
    ranking: dict[str, Any] = {name: (run, prepare) for name, run in rows.items()}
    ranking["kd_mm, distances included"] = (lambda: whole(data), None)
    measured_ranking = rounds(ranking, args.repeats)
    if args.toolkit_repeats:
        run = lambda found: rank_by_argsort(data, found, None, precisions_one_by_one)  # noqa: E731
        name = f"argsort, precisions one by one ({args.toolkit_repeats}x)"
        measured_ranking |= rounds({name: (run, prepare)}, args.toolkit_repeats)
    title = f"from distances to measures: {size}, median of {args.repeats}"
    console.print(table(title, measured_ranking, "mAP mINP Rank-1", percent))
    if args.rerank_repeats:
        reranking = {"kd_mm": (lambda: rerank_ours(data), None), "dense": (lambda: rerank_dense(data), None)}
        found = rounds(reranking, args.rerank_repeats)
        expected = found["dense"][3]
        title = f"k-reciprocal re-ranking: {size}, median of {args.rerank_repeats}"
        console.print(table(title, found, "difference", lambda rows: f"{abs(rows - expected).max():.1e}"))
    if args.growth:
        growth(args, console)


if __name__ == "__main__":
    with ClearErrors():
        main(parse_args())
