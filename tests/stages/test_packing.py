"""Packed convolutions of a folded network on the CPU: the same outputs."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd_mm.models.exits import SepConvExit
from kd_mm.stages import folding
from kd_mm.stages.folding import fold_chain, fold_norms
from kd_mm.stages.packing import convolve

PACKED = "mkldnn::_convolution_pointwise"


class Block(nn.Module):
    """A residual block with a plain, a grouped and a pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding="same", groups=4), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += x
        return self.relu(out)


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(Block(), Block())
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


IMAGES = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)


def calls(run: Callable[[], object], name: str) -> int:
    with torch.profiler.profile() as profile:
        run()
    return sum(event.name == name for event in profile.events())


def test_same_output(net: nn.Module) -> None:
    state, expected = copy.deepcopy(net.state_dict()), net(IMAGES)
    undo = fold_norms(net, lambda: net(IMAGES))
    torch.testing.assert_close(net(IMAGES), expected)
    assert calls(lambda: net(IMAGES), PACKED) == 4  # padding="same" stays with PyTorch
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    undo()
    assert torch.equal(net(IMAGES), expected)


def test_the_cost_of_the_network_is_counted_as_ever(net: nn.Module) -> None:
    counts = []
    for fold in (False, True):
        if fold:
            fold_norms(net, lambda: net(IMAGES))
        with FlopCounterMode(display=False) as counter:
            net(IMAGES)
        counts.append(counter.get_total_flops())
    # Two blocks on 2 x 6 x 6 places: 8 to 8 channels by 3 x 3, the same in 4 groups, 8 to 8 by 1 x 1.
    assert counts == [2 * 2 * 72 * (8 * 8 * 9 + 8 * 2 * 9 + 8 * 8)] * 2


def test_packed_weights_follow_the_network(net: nn.Module) -> None:
    plain = copy.deepcopy(net)
    fold_norms(net, lambda: net(IMAGES))
    net(IMAGES)
    for model in (plain, net):
        model[0].conv1.weight.mul_(-1.5)
        model[1].norm3.running_mean.add_(0.3)
    torch.testing.assert_close(net(IMAGES), plain(IMAGES))


def test_a_copy_packs_its_own_weights(net: nn.Module) -> None:
    fold_norms(net, lambda: net(IMAGES))
    expected = net(IMAGES)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(IMAGES), expected)
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(twin(IMAGES), IMAGES.relu())
    assert torch.equal(net(IMAGES), expected)


def test_another_size_gives_the_same(net: nn.Module) -> None:
    larger = torch.randn(1, 8, 9, 17).contiguous(memory_format=torch.channels_last)
    expected = net(larger)
    fold_norms(net, lambda: net(IMAGES))
    net(IMAGES)
    torch.testing.assert_close(net(larger), expected)
    # Weights are laid out for the size that comes, and once while it stays the same.
    layouts = "mkldnn::_reorder_convolution_weight"
    assert calls(lambda: net(larger), layouts) == 0
    assert calls(lambda: net(IMAGES), layouts) == 4


@pytest.mark.parametrize("how", ["plain format", "float64", "bfloat16", "autocast", "switched off"])
def test_what_does_not_pack_is_folded_all_the_same(net: nn.Module, how: str) -> None:
    fold_norms(net, lambda: net(IMAGES))
    net(IMAGES)
    images = {"plain format": IMAGES.contiguous(), "float64": IMAGES.double(), "bfloat16": IMAGES.bfloat16()}
    net.to(images.get(how, IMAGES).dtype)
    if how == "plain format":
        net.to(memory_format=torch.contiguous_format)

    def run() -> Tensor:
        on = torch.backends.mkldnn.enabled
        with (
            torch.autocast("cpu", torch.bfloat16, how == "autocast"),
            torch.backends.mkldnn.flags(enabled=on and how != "switched off"),
        ):
            return net(images.get(how, IMAGES))

    assert calls(run, PACKED) == 0
    assert calls(run, "aten::native_batch_norm") == 0


def test_gradients_pass_the_plain_layers(net: nn.Module) -> None:
    plain = copy.deepcopy(net)
    fold_norms(net, lambda: net(IMAGES))
    net(IMAGES)
    gradients = []
    for model in (plain, net):
        image = IMAGES.clone().requires_grad_()
        with torch.enable_grad():
            gradients += torch.autograd.grad(model(image).square().sum(), image)
    assert torch.equal(*gradients)


def test_what_is_not_a_number_stays_so(net: nn.Module) -> None:
    fold_norms(net, lambda: net(IMAGES))
    net[0].conv1.weight.fill_(float("nan"))
    assert calls(lambda: net(IMAGES), PACKED) > 0
    assert net(IMAGES).isnan().all()


def test_an_exit_whose_packed_convolution_computes_something_else_is_not_folded(monkeypatch) -> None:
    torch.manual_seed(0)
    layers = SepConvExit([8, 8, 16], 5)
    layers(torch.randn(4, 8, 8, 8))  # statistics that are not 0 and 1
    layers.eval()
    monkeypatch.setattr(folding, "convolve", lambda *args: convolve(*args) * 1.01)
    fold_chain(layers.body)
    assert calls(lambda: layers(IMAGES), "aten::native_batch_norm") == 4
    monkeypatch.undo()
    expected = layers(IMAGES)
    fold_chain(layers.body)
    torch.testing.assert_close(layers(IMAGES), expected)
    assert calls(lambda: layers(IMAGES), PACKED) == 4  # the pointwise ones, which a norm follows
