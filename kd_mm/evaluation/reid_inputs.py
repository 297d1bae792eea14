"""What the evaluation of retrieval is given, checked once and brought to one form."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features: TypeAlias = "NDArray[Any] | Tensor"
Ids: TypeAlias = NDArray[np.int64]
#: Person id of images that count as neither right nor wrong.
JUNK = -1
METRICS = ("cosine", "euclidean")
# Beyond these norms the squares of float32 leave its range.
_LEAST_NORM, _LARGEST_NORM = 1e-18, 1e18
#: Rows that are looked through at once for what is not finite.
_CHECKED_ROWS = 4096


@dataclass(frozen=True)
class Images:
    """Images of one side.

    Attributes:
        features: ``(N, D)`` float32 or float64, finite.
        pids: ``(N,)`` person ids.
        camids: ``(N,)`` camera ids, or None.
    """

    features: Tensor
    pids: Ids
    camids: Ids | None

    def __len__(self) -> int:
        return len(self.pids)

    def without_junk(self) -> Images:
        """Return the images that are not junk, in their order; itself where none is."""
        kept = self.pids != JUNK
        if kept.all():
            return self
        features = self.features[torch.from_numpy(np.flatnonzero(kept)).to(self.features.device)]
        return Images(features, self.pids[kept], None if self.camids is None else self.camids[kept])


def read_images(
    query: tuple[Any, Any, Any], gallery: tuple[Any, Any, Any], metric: str = "cosine"
) -> tuple[Images, Images]:
    """Check queries and gallery, each given as features, person ids and camera ids.

    Args:
        query: ``(Q, D)``, ``(Q,)`` and ``(Q,)`` or None.
        gallery: ``(G, D)``, ``(G,)`` and ``(G,)`` or None.
        metric: ``"cosine"`` or ``"euclidean"``.

    Returns:
        Both, on the gallery's device and of one dtype.

    Raises:
        ValueError: Anything that does not fit.
    """
    check_metric(metric)
    if (query[2] is None) != (gallery[2] is None):
        side = "queries" if query[2] is None else "gallery"
        raise ValueError(f"the {side} have no camera ids: give camera ids of both, or None for both: no camera rule")
    features = read_features(query[0], gallery[0], metric)
    sides = []
    for name, values, (_, pids, camids) in zip(("query", "gallery"), features, (query, gallery), strict=True):
        cameras = None if camids is None else _ids(camids, len(values), name, "camera")
        sides.append(Images(values, _ids(pids, len(values), name, "person"), cameras))
    if (sides[1].pids == JUNK).all():
        raise ValueError(f"all {len(sides[1])} images of the gallery are junk (person id {JUNK}): nothing can be found")
    return sides[0], sides[1]


def check_metric(metric: str) -> None:
    """Raise ``ValueError`` where the measure of distance is unknown."""
    if metric not in METRICS:
        near = difflib.get_close_matches(str(metric), METRICS, 1, 0.3) or METRICS
        raise ValueError(f"metric={metric!r} is unknown: write metric={near[0]!r} (there are {', '.join(METRICS)})")


def read_features(query: Any, gallery: Any, metric: str) -> tuple[Tensor, Tensor]:
    """Return features ``(Q, D)`` and ``(G, D)`` as tensors on the gallery's device, float32, or float64 where given.

    Raises:
        ValueError: One is empty or no matrix, lengths differ, a value is not finite, or a row is zero for cosine.
    """
    sides = {"query": _matrix(query, "query"), "gallery": _matrix(gallery, "gallery")}
    lengths = {name: values.shape[1] for name, values in sides.items()}
    if lengths["query"] != lengths["gallery"]:
        raise ValueError(
            f"query features have {lengths['query']} values, gallery features {lengths['gallery']}: take both from the "
            "same network"
        )
    wide = any(values.dtype == torch.float64 for values in sides.values())
    for name, values in sides.items():
        norms = torch.linalg.vector_norm(values, dim=1)
        if not bool(torch.isfinite(norms).all()):
            _check_finite(values, name)
        if metric == "cosine" and not bool(norms.all()) and bool((values == 0).all(dim=1).any()):
            row = int((values == 0).all(dim=1).nonzero()[0])
            raise ValueError(
                f"{name} feature {row} is all zero: it has no direction, so cosine similarity is undefined; has the "
                "network collapsed? (metric='euclidean' takes it)"
            )
        wide = wide or bool(((norms > _LARGEST_NORM) | ((norms > 0) & (norms < _LEAST_NORM))).any())
        wide = wide or bool((norms == 0).any() and values.any())
    dtype = torch.float64 if wide else torch.float32
    return sides["query"].to(sides["gallery"].device, dtype), sides["gallery"].to(dtype)


def _matrix(features: Any, name: str) -> Tensor:
    values = features.detach() if isinstance(features, Tensor) else _tensor(features, name)
    if values.ndim != 2:
        raise ValueError(f"{name} features have shape {tuple(values.shape)}: give a matrix, one row an image")
    if not len(values):
        raise ValueError(f"the {name} is empty: there is no image to {'look for' if name == 'query' else 'find'}")
    if not values.shape[1]:
        raise ValueError(f"{name} features have zero length: shape {tuple(values.shape)}")
    if values.is_complex():
        raise ValueError(f"{name} features are complex: give real numbers")
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _tensor(features: Any, name: str) -> Tensor:
    try:
        array = np.asarray(features)
        # Copies only what torch cannot share: other byte orders, negative strides, read-only memory.
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} features are no matrix of numbers: {error}") from None


def _check_finite(values: Tensor, name: str) -> None:
    whole = torch.cat([torch.isfinite(part).all(dim=1) for part in values.split(_CHECKED_ROWS)])
    bad = (~whole).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(values)} {name} features hold NaN or infinity, the first being number {bad[0]}: has "
            "the model diverged?"
        )


def _ids(given: Any, number: int, name: str, kind: str) -> Ids:
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.shape != (number,):
        raise ValueError(
            f"{number} {name} features, but {kind} ids of shape {array.shape}: give one {kind} id for each image"
        )
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "f" and not (array == np.rint(array)).all()):
        raise ValueError(f"{name} {kind} ids are not all whole numbers: {array[:3].tolist()} ...")
    return array.astype(np.int64)
