"""Lengths of what is prepared on the teachers: fractions of the run, whatever its loop."""

from types import SimpleNamespace

import pytest

from kd_mm.hooks.preparation import in_epochs

#: What the function reads of a runner: 240 epochs of 5 iterations, counted either way.
RUN = SimpleNamespace(max_iters=1200, train_dataloader=range(5))


@pytest.mark.parametrize(
    ("epochs", "fraction", "milestones", "expected"),
    [
        (None, 100 / 240, [0.3, 0.6, 0.9], (100, [30, 60, 90])),
        (None, 1 / 4, [1 / 2, 3 / 4], (60, [30, 45])),
        (None, 1 / 1000, [0.5], (1, [0])),
        (8, 100 / 240, [0.3, 0.6, 0.9], (8, [2, 5, 7])),
    ],
)
def test_length(epochs: int | None, fraction: float, milestones: list[float], expected: tuple) -> None:
    given = {"epochs": epochs, "fraction": fraction, "milestones": milestones, "lr": 0.1}
    found = in_epochs(given, RUN, "exits")
    assert found == {"epochs": expected[0], "milestones": expected[1], "lr": 0.1}
    assert given["fraction"] == fraction


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"epochs": 0}, "exits: epochs=0 must be 1 or more"),
        ({"fraction": 0.0}, r"fraction=0.0 of the run's above 0"),
        ({"milestones": [30, 60]}, r"exits: milestones=\[30, 60\] are fractions of its own training"),
    ],
)
def test_wrong_lengths_are_one_line(options: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        in_epochs({"epochs": None, "fraction": 0.5, "milestones": [], **options}, RUN, "exits")
