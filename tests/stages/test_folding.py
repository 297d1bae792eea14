"""Batch norms folded into convolutions: the same outputs, the same tensors in the network."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kd_mm.models.exits import RoIExit, SepConvExit
from kd_mm.stages.folding import fold_chain, fold_norms


class Net(nn.Module):
    """Two pairs that fold (one with a bias and a group), one norm that does not follow a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.BatchNorm2d(8, affine=False)
        self.norm3 = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu_()
        return self.norm3(self.norm2(self.conv2(x)).relu())


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net().double()
    for _ in range(3):  # statistics that are not 0 and 1
        net(torch.randn(8, 3, 12, 12, dtype=torch.float64) * 2 + 1)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.eval()


IMAGES = torch.randn(2, 3, 12, 12, dtype=torch.float64)


def calls_batch_norm(run: Callable[[], object]) -> int:
    with torch.no_grad(), torch.profiler.profile() as profile:
        run()
    return sum(event.name == "aten::native_batch_norm" for event in profile.events())


def test_same_output_with_fewer_norms_and_untouched_tensors(net: Net) -> None:
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected = net(IMAGES)
        undo = fold_norms(net, lambda: net(IMAGES))
        torch.testing.assert_close(net(IMAGES), expected, rtol=1e-12, atol=1e-12)
    assert calls_batch_norm(lambda: net(IMAGES)) == 1
    assert list(state) == list(net.state_dict())
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    undo()
    assert calls_batch_norm(lambda: net(IMAGES)) == 3
    with torch.no_grad():
        assert torch.equal(net(IMAGES), expected)


def test_the_fold_follows_its_network(net: Net) -> None:
    fold_norms(net, lambda: net(IMAGES))
    plain = Net().double().eval()
    with torch.no_grad():
        net(IMAGES)
        for parameter in net.parameters():
            parameter.mul_(1.5)
        assert net.norm1.running_mean is not None
        net.norm1.running_mean.add_(0.3)
        plain.load_state_dict(net.state_dict())
        torch.testing.assert_close(net(IMAGES), plain(IMAGES), rtol=1e-12, atol=1e-12)
        assert net.float()(IMAGES.float()).dtype == torch.float32


def test_gradients_and_train_mode_are_as_ever(net: Net) -> None:
    plain = copy.deepcopy(net)
    fold_norms(net, lambda: net(IMAGES))
    for model in (plain, net):
        model(IMAGES).square().mean().backward()
        model.train()(IMAGES)
    for own, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert torch.equal(own.grad, other.grad)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), plain.buffers(), strict=True))
    assert int(net.norm1.num_batches_tracked) == 4


def test_a_copy_folds_its_own_weights(net: Net) -> None:
    fold_norms(net, lambda: net(IMAGES))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        expected = net(IMAGES)
        for parameter in twin.parameters():
            parameter.zero_()
        assert not twin(IMAGES).any()
        assert torch.equal(net(IMAGES), expected)


def test_modules_that_are_kept_or_called_twice_do_not_fold(net: Net) -> None:
    fold_norms(net, lambda: net(IMAGES), keep=[net.norm1])
    assert calls_batch_norm(lambda: net(IMAGES)) == 2
    other = Net().double().eval()
    fold_norms(other, lambda: (other(IMAGES), other(IMAGES)))
    assert calls_batch_norm(lambda: other(IMAGES)) == 3


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_layers_of_an_exit_fold(norm: str) -> None:
    torch.manual_seed(0)
    layers = SepConvExit([4, 6, 8], 5, norm).double()
    feature = torch.randn(4, 4, 8, 8, dtype=torch.float64)
    layers(feature)  # statistics that are not 0 and 1
    layers.eval()
    with torch.no_grad():
        expected = layers(feature)
        fold_chain(layers.body)
        torch.testing.assert_close(layers(feature), expected, rtol=1e-12, atol=1e-12)
    assert calls_batch_norm(lambda: layers(feature)) == 0


def test_an_exit_that_pools_fewer_channels_than_its_stage_has_folds() -> None:
    layers = RoIExit([12, 16], 5, hidden=4).eval()
    feature = torch.randn(2, 12, 8, 8)
    with torch.no_grad():
        expected = layers.body(feature)
        fold_chain(layers.body)
        torch.testing.assert_close(layers.body(feature), expected)
        assert calls_batch_norm(lambda: layers.body(feature)) == 0


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 7), nn.AvgPool2d(2)], ids=["large kernel", "pooling first"])
def test_a_chain_that_cannot_be_compared_does_not_fold(layer: nn.Module) -> None:
    chain = nn.Sequential(layer, nn.Conv2d(4 if isinstance(layer, nn.Conv2d) else 3, 4, 1), nn.BatchNorm2d(4)).eval()
    fold_chain(chain)
    assert calls_batch_norm(lambda: chain(torch.randn(2, 3, 16, 16))) == 1


def test_a_chain_of_unknown_parts_does_not_fold(net: Net) -> None:
    fold_chain(nn.Sequential(net))
    assert calls_batch_norm(lambda: net(IMAGES)) == 3
