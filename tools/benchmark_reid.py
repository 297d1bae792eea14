"""Time kd_mm's re-identification measures beside plain NumPy programs, and their cost as galleries grow.

Every measurement runs in a forked process, so that its peak memory is what it needs beyond the features. Features are
synthetic: a person is a point, images of it scatter around it, 1 in 6 is a distractor.
"""

import argparse
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kd_mm.evaluation import evaluate_reid
from kd_mm.evaluation.rerank import reranked_distances

Array = NDArray[Any]
#: Features, person ids and camera ids of queries and gallery, in the order of evaluate_reid's arguments.
People = tuple[Array, Array, Array, Array, Array, Array]
#: In a measuring process, what it runs: forked, not pickled.
RUNS: list[Callable[[], Any]] = []


def make_people(queries: int, gallery: int, length: int, people: int, seed: int) -> People:
    """Return features that vary in 64 directions, as those of a network vary in far fewer than they have."""
    random = np.random.default_rng(seed)
    inner = min(64, length)
    centres = random.standard_normal((people + 1, inner), dtype=np.float32)
    spread = random.standard_normal((inner, length), dtype=np.float32) if length > inner else np.eye(inner, dtype="f4")
    qpids = random.integers(1, people + 1, queries)
    gpids = np.where(random.random(gallery) < 1 / 6, 0, random.integers(1, people + 1, gallery))

    def features(pids: Array) -> Array:
        noise = random.standard_normal((len(pids), inner), dtype=np.float32)
        return np.where(pids[:, None] == 0, 1.5 * noise, centres[pids] + 1.1 * noise) @ spread

    cameras = random.integers(0, 6, queries), random.integers(0, 6, gallery)
    return features(qpids), features(gpids), qpids, gpids, *cameras


def cosine(data: People) -> Array:
    query, gallery = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in data[:2])
    return np.asarray(1 - query @ gallery.T)


def rank_by_argsort(data: People, kind: Any = None, one_by_one: bool = False) -> dict[str, Any]:
    """Measure as NumPy evaluators do (torchreid's and fast-reid's without Cython): an argsort of each query.

    Args:
        data: The images.
        kind: Of ``np.argsort``.
        one_by_one: Compute precisions in a Python loop, as these toolkits do.
    """
    _, _, qpids, gpids, qcams, gcams = data
    curves, precisions, penalties = [], [], []
    for row, pid, camera in zip(cosine(data), qpids, qcams, strict=True):
        order = np.argsort(row, kind=kind)
        right = gpids[order] == pid
        right = right[~(right & (gcams[order] == camera))]
        if not right.any():
            continue
        found = right.cumsum()
        precision = (
            np.array([n / i for i, n in enumerate(found, 1)]) if one_by_one else found / np.arange(1, len(found) + 1)
        )
        curves.append(np.minimum(found[:50], 1))
        penalties.append(found[-1] / (np.flatnonzero(right)[-1] + 1))
        precisions.append(precision[right].mean())
    return {"mAP": np.mean(precisions), "mINP": np.mean(penalties), "cmc": np.mean(curves, axis=0)}


def rerank_kd_mm(data: People) -> Array:
    step = max(len(data[0]) // 50, 1)
    return reranked_distances(data[0], data[1])[::step]


def rerank_dense(data: People, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Array:
    """Return every n-th row of re-ranked distances, from dense matrices, as the method is usually written."""
    queries = len(data[0])
    features = np.concatenate(data[:2])
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
        others = [mutual(j, round(k1 / 2)) for j in near]
        added = [other for other in others if len(np.intersect1d(other, near)) > 2 / 3 * len(other)]
        members = np.unique(np.concatenate([near, *added]))
        weight = np.exp(-distances[i, members])
        weights[i, members] = weight / weight.sum()
    weights = np.stack([weights[ranking[i, :k2]].mean(axis=0) for i in range(len(features))])
    rows = []
    for i in range(0, queries, max(queries // 50, 1)):
        shared = np.minimum(weights[i], weights[queries:]).sum(axis=1)
        rows.append((1 - lambda_value) * (1 - shared / (2 - shared)) + lambda_value * distances[i, queries:])
    return np.stack(rows)


def memory(kind: str) -> int:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak) of this process in bytes."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def measure(run: Callable[[], Any]) -> tuple[float, float, int, Any]:
    """Return wall seconds, CPU seconds, peak bytes beyond those before, and the result, from a forked process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork"), initializer=RUNS.append, initargs=[run]) as pool:
        return pool.submit(measure_here).result()


def measure_here() -> tuple[float, float, int, Any]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, cpu, start = memory("VmRSS"), time.process_time(), time.perf_counter()
    result = RUNS[-1]()
    return time.perf_counter() - start, time.process_time() - cpu, memory("VmHWM") - before, result


def compare(title: str, runs: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, Any]:
    """Run each program as often as given, in turn; print medians and return the results."""
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for i in range(max(repeats for _, repeats in runs.values())):
        for name, (run, repeats) in runs.items():
            if i < repeats:
                found[name].append(measure(run))
    table = Table("what", "seconds", "CPU s", "peak MiB", "mAP", title=title)
    for name, rows in found.items():
        if rows:
            seconds, cpu, size = (statistics.median(row[i] for row in rows) for i in range(3))
            mean = f"{100 * rows[0][3]['mAP']:.4f}" if isinstance(rows[0][3], dict) else ""
            table.add_row(name, f"{seconds:.3f}", f"{cpu:.3f}", f"{size / 2**20:.0f}", mean)
    Console(width=118).print(table)
    return {name: rows[0][3] for name, rows in found.items() if rows}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default, text in (
        ("queries", 3368, "queries"),
        ("gallery", 15913, "images of the gallery"),
        ("length", 2048, "numbers of a feature"),
        ("people", 750, "persons"),
        ("repeats", 3, "rounds of the ranking"),
        ("toolkit-repeats", 1, "rounds of the slowest ranking; 0: none"),
        ("rerank-repeats", 1, "rounds of re-ranking; 0: none"),
        ("growth", 100, "largest growth of the gallery; 0: none"),
        ("growth-length", 64, "numbers of a feature there"),
        ("seed", 0, "random seed"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if min(args.queries, args.gallery, args.length, args.people, args.repeats) < 1:
        raise ValueError("--queries, --gallery, --length, --people and --repeats must be at least 1")
    data = make_people(args.queries, args.gallery, args.length, args.people, args.seed)
    size = f"{args.queries:,} x {args.gallery:,} x {args.length:,}, {torch.get_num_threads()} threads"
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "distances alone": (lambda: cosine(data)[:0], args.repeats),
        "kd_mm.evaluate_reid": (lambda: evaluate_reid(*data), args.repeats),
        "argsort of each query": (lambda: rank_by_argsort(data), args.repeats),
        "stable argsort of each query": (lambda: rank_by_argsort(data, "stable"), args.repeats),
        "argsort, precisions one by one": (lambda: rank_by_argsort(data, one_by_one=True), args.toolkit_repeats),
    }
    compare(f"from features to measures: {size}", runs)
    if args.rerank_repeats:
        runs = {"kd_mm": (lambda: rerank_kd_mm(data), args.rerank_repeats)}
        runs["dense"] = (lambda: rerank_dense(data), args.rerank_repeats)
        kd_mm, dense = compare(f"k-reciprocal re-ranking: {size}", runs).values()
        print(f"largest difference of a re-ranked distance: {abs(kd_mm - dense).max():.1e}")
    # Larger galleries. Defaults of lambdas bind each set of images.
    small, length = max(args.gallery // 40, 1), min(args.growth_length, args.length)
    runs = {}
    for factor in (factor for factor in (1, 10, 100) if factor <= args.growth):
        many = make_people(args.queries, factor * args.gallery, length, args.people, args.seed)
        few = make_people(max(args.queries // 8, 1), factor * small, length, args.people, args.seed)
        runs[f"evaluate_reid, gallery of {factor * args.gallery:,}"] = (lambda data=many: evaluate_reid(*data)), 1
        runs[f"re-ranking, gallery of {factor * small:,}"] = (lambda data=few: rerank_kd_mm(data)[:0]), 1
    if runs:
        compare(f"features of length {length}", runs)


if __name__ == "__main__":
    main(parse_args())
