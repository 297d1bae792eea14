"""The comparison of operators between devices finds one that differs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from .mirrored_ops import mirrored


def test_operator_that_differs_on_the_second_device_is_named() -> None:
    calls: list[Tensor] = []

    def fills(out: Tensor) -> None:
        calls.append(out)
        out.fill_(len(calls))

    extension = SimpleNamespace(fills=fills, doubles=lambda x: 2 * x)
    with mirrored(extension, ["fills", "doubles"], "cpu") as ran:
        assert extension.doubles(torch.ones(2)).tolist() == [2, 2]
        with pytest.raises(AssertionError, match="fills differs"):
            extension.fills(torch.zeros(3))
    assert ran == {"fills", "doubles"}
    assert extension.fills is fills
    assert calls[0] is not calls[1]
