"""Taps and the recorder."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from kd_mm.stages.recorder import Recorder, StopForward
from kd_mm.stages.tap import Tap

from ..helpers.errors import assert_refused


class Toy(nn.Module):
    """A network with a module that runs twice, a tuple output, a list of modules and an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 3)])
        self.pair = _Pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        x = self.twice(self.twice(x))
        a, _ = self.pair(x)
        return self.heads[0](a)


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return x + 1, [x + 2, x + 3]


def record(model: nn.Module, taps: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    recorder = Recorder(model, taps)
    with recorder:
        model(x)
    return recorder.take()


def test_grammar() -> None:
    for text, path, read_input, call, items in (
        ("backbone.layer3", "backbone.layer3", None, -1, ()),
        ("neck[2]", "neck", None, -1, (2,)),
        ("head.fc:in", "head.fc", 0, -1, ()),
        ("head.cls_convs.0#1", "head.cls_convs.0", None, 1, ()),
        ("a:in#-2[0][-1]", "a", 0, -2, (0, -1)),
    ):
        tap = Tap.parse(text)
        assert (tap.path, tap.read_input, tap.call, tap.items) == (path, read_input, call, items)
        assert str(tap) == text
    for text in ("", "layer 3", "a[b]", "a#x", "a:out", ".a"):
        assert_refused("is not understood", Tap.parse, text)


def test_taps_read_what_they_name() -> None:
    model, x = Toy(), torch.randn(3, 4)
    records = record(model, ["twice:in#0", "twice#0", "twice", "pair[0]", "pair[1][1]", "heads.0"], x)
    first = model.twice(records["twice:in#0"])
    assert torch.equal(records["twice#0"], first)
    assert torch.equal(records["twice"], model.twice(first))
    assert torch.equal(records["pair[0]"], records["twice"] + 1)
    assert torch.equal(records["pair[1][1]"], records["twice"] + 3)
    assert torch.equal(records["heads.0"], model(x))


def test_what_is_not_there_is_no_tensor_or_did_not_run_is_refused() -> None:
    for tap, message in (
        ("twise", "did you mean twice"),
        ("heads", "ModuleList.*e.g. heads.0"),
        ("nothing.like.it", "has no module"),
    ):
        assert_refused(message, Recorder, Toy(), [tap])
    with pytest.raises(TypeError, match=r"gives a tuple of length 2.*pair\[-1\]"):
        record(Toy(), ["pair"], torch.randn(1, 4))
    with pytest.raises(RuntimeError, match=r"'heads.1' fired 0 times"):
        record(Toy(), ["heads.1"], torch.randn(1, 4))
    with pytest.raises(RuntimeError, match=r"fired 2 times in one forward pass, call #5"):
        record(Toy(), ["twice#5"], torch.randn(1, 4))


def test_a_change_in_place_is_refused_or_cloned_after_calibration() -> None:
    model, x = Toy(), torch.randn(8, 4)
    with pytest.raises(RuntimeError, match="changed in place"):
        record(model, ["stem"], x)
    recorder = Recorder(model, ["stem"])
    with recorder:
        model(x)
        recorder.calibrate()
    recorder.take()
    with recorder:
        model(x)
    assert torch.equal(recorder.take()["stem"], model.stem(x))


def test_nothing_is_recorded_while_inactive_and_nothing_is_kept() -> None:
    model = Toy()
    recorder = Recorder(model, ["twice"])
    model(torch.randn(1, 4))
    assert not recorder._records
    with recorder:
        model(torch.randn(1, 4))
    recorder.take()
    assert not recorder._records


def test_stops_after_the_deepest_tap() -> None:
    model = Toy()
    recorder = Recorder(model, ["stem", "twice"], stop_when_complete=True)
    with recorder:
        model(torch.randn(2, 4))
        recorder.calibrate()
    recorder.take()
    with pytest.raises(StopForward), recorder:
        model(torch.randn(2, 4))
    assert set(recorder.take()) == {"stem", "twice"}


def test_a_copied_network_records_into_the_copied_recorder() -> None:
    model = Toy()
    model.recorder = Recorder(model, ["twice"])
    twin = copy.deepcopy(model)
    with twin.recorder:
        twin(torch.randn(1, 4))
    assert twin.recorder._records
    assert not model.recorder._records
    assert model.recorder.attach(model) == []
    model.twice = nn.Linear(4, 4)
    assert model.recorder.attach(model) == ["twice"]


def test_compiled_with_hooks_is_one_graph() -> None:
    model = Toy().eval()
    recorder = Recorder(model, ["twice", "heads.0"])
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)

    def run(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad(), recorder:
            forward(x)
        return recorder.take()

    for _ in range(3):
        x = torch.randn(2, 4)
        plain, fast = run(model, x), run(compiled, x)
        assert all(torch.equal(plain[tap], fast[tap]) for tap in plain)
    assert graphs.frame_count == 1
