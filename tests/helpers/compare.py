"""Compare what two runs leave."""

from pathlib import Path
from typing import Any

import torch


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Return where two nested states differ, tensors compared bit for bit."""
    if type(left) is not type(right):
        return [f"{where}: {type(left)} and {type(right)}"]
    if isinstance(left, torch.Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [where]
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return [f"{where}: keys {sorted(map(str, left.keys() ^ right.keys()))}"]
        return [found for key in left for found in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f"{where}: lengths {len(left)} and {len(right)}"]
        pairs = enumerate(zip(left, right, strict=True))
        return [found for number, pair in pairs for found in differences(*pair, f"{where}[{number}]")]
    return [] if left == right else [f"{where}: {left!r} and {right!r}"]


def same(a: Any, b: Any) -> bool:
    """Whether nested tensors are equal bit for bit, names and their order included."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
