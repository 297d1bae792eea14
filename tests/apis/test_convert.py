"""Converted checkpoints compute what the source computes.

``Source`` is a network written as plain calls, each of which makes its tensors under their public names: one forward
pass defines names, shapes and the logits, independently of kd_mm's modules.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from kd_mm.apis.convert import convert_checkpoint
from kd_mm.utils.config import build_network

from ..helpers.errors import assert_refused
from ..helpers.faults import Bomb
from ..helpers.tools import Tools

ROOT = Path(__file__).parents[2]
OSNET = ROOT / "configs" / "_base_" / "models" / "osnet.py"
CIFAR100 = ROOT / "configs" / "classification" / "cifar100"


class Source:
    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def _tensor(self, name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        self.state[name] = shift + scale * torch.randn(shape, generator=self.generator)
        return self.state[name]

    def conv(
        self, name: str, x: Tensor, out: int, k: int = 3, s: int = 1, groups: int = 1, bias: bool = False
    ) -> Tensor:
        fan_in = x.shape[1] // groups * k * k
        weight = self._tensor(f"{name}.weight", out, x.shape[1] // groups, k, k, scale=fan_in**-0.5)
        offset = self._tensor(f"{name}.bias", out, scale=0.1) if bias else None
        return F.conv2d(x, weight, offset, s, k // 2, groups=groups)

    def bn(self, name: str, x: Tensor) -> Tensor:
        width = x.shape[1]
        weight = self._tensor(f"{name}.weight", width, scale=0.1, shift=1)
        bias = self._tensor(f"{name}.bias", width, scale=0.1)
        mean = self._tensor(f"{name}.running_mean", width, scale=0.1)
        var = self._tensor(f"{name}.running_var", width).abs_().add_(0.5)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, name: str, x: Tensor, out: int = 100) -> Tensor:
        x = x.mean((2, 3))
        weight = self._tensor(f"{name}.weight", out, x.shape[1], scale=x.shape[1] ** -0.5)
        return F.linear(x, weight, self._tensor(f"{name}.bias", out))


def resnet(net: Source, x: Tensor, blocks: int, widths: tuple[int, ...], option_a: bool = False) -> Tensor:
    x = net.bn("bn1", net.conv("conv1", x, widths[0])).relu()
    for stage, width in enumerate(widths[1:], start=1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = net.bn(f"{at}.bn1", net.conv(f"{at}.conv1", x, width, s=stride)).relu()
            out = net.bn(f"{at}.bn2", net.conv(f"{at}.conv2", out, width))
            if option_a and stride == 2:
                side = torch.zeros(x.shape[0], width // 4, *out.shape[2:])
                x = torch.cat((side, x[:, :, ::2, ::2], side), dim=1)
            elif x.shape != out.shape:
                x = net.bn(f"{at}.downsample.1", net.conv(f"{at}.downsample.0", x, width, k=1, s=stride))
            x = (out + x).relu()
    return net.linear("linear", x, 10) if option_a else net.linear("fc", x)


def resnet50(net: Source, x: Tensor) -> Tensor:
    x = net.bn("bn1", net.conv("conv1", x, 64)).relu()
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = net.bn(f"{at}.bn1", net.conv(f"{at}.conv1", x, width, k=1)).relu()
            out = net.bn(f"{at}.bn2", net.conv(f"{at}.conv2", out, width, s=stride)).relu()
            out = net.bn(f"{at}.bn3", net.conv(f"{at}.conv3", out, 4 * width, k=1))
            if block == 0:
                x = net.bn(f"{at}.shortcut.1", net.conv(f"{at}.shortcut.0", x, 4 * width, k=1, s=stride))
            x = (out + x).relu()
    return net.linear("linear", x)


def wide_resnet(net: Source, x: Tensor, blocks: int, factor: int) -> Tensor:
    x = net.conv("conv1", x, 16)
    for stage in (1, 2, 3):
        width = 16 * factor * 2 ** (stage - 1)
        for block in range(blocks):
            at, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            active = net.bn(f"{at}.bn1", x).relu()
            if x.shape[1] != width:
                x = net.conv(f"{at}.convShortcut", active, width, k=1, s=stride)
            out = net.bn(f"{at}.bn2", net.conv(f"{at}.conv1", active, width, s=stride)).relu()
            x = x + net.conv(f"{at}.conv2", out, width)
    return net.linear("fc", net.bn("bn1", x).relu())


def vgg(net: Source, x: Tensor, convs: tuple[int, ...]) -> Tensor:
    for block, (width, count) in enumerate(zip((64, 128, 256, 512, 512), convs, strict=True)):
        for index in range(count):
            x = net.conv(f"block{block}.{3 * index}", x, width, bias=True)
            x = net.bn(f"block{block}.{3 * index + 1}", x).relu()
        x = F.max_pool2d(x, 2) if block < 3 else x
    return net.linear("classifier", x)


def mobilenet_v2(net: Source, x: Tensor) -> Tensor:
    x = net.bn("conv1.1", net.conv("conv1.0", x, 16, s=2)).relu()
    groups = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
    for group, (expansion, width, blocks, stride) in enumerate(groups):
        for block in range(blocks):
            at, hidden, step = f"blocks.{group}.{block}.conv", x.shape[1] * expansion, stride if block == 0 else 1
            out = net.bn(f"{at}.1", net.conv(f"{at}.0", x, hidden, k=1)).relu()
            out = net.bn(f"{at}.4", net.conv(f"{at}.3", out, hidden, s=step, groups=hidden)).relu()
            out = net.bn(f"{at}.7", net.conv(f"{at}.6", out, width, k=1))
            x = x + out if x.shape == out.shape else out
    return net.linear("classifier.0", net.bn("conv2.1", net.conv("conv2.0", x, 1280, k=1)).relu())


def shuffled(x: Tensor, groups: int) -> Tensor:
    return x[:, torch.arange(x.shape[1]).view(groups, -1).t().flatten()]


def shufflenet_v1(net: Source, x: Tensor) -> Tensor:
    x = net.bn("bn1", net.conv("conv1", x, 24, k=1)).relu()
    for stage, (width, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
        for block in range(blocks):
            at, down = f"layer{stage}.{block}", block == 0
            out_width, groups = width - x.shape[1] if down else width, 1 if x.shape[1] == 24 else 3
            hidden = out_width // 4
            out = net.bn(f"{at}.bn1", net.conv(f"{at}.conv1", x, hidden, k=1, groups=groups)).relu()
            out = net.conv(f"{at}.conv2", shuffled(out, groups), hidden, s=2 if down else 1, groups=hidden)
            out = net.conv(f"{at}.conv3", net.bn(f"{at}.bn2", out).relu(), out_width, k=1, groups=3)
            out = net.bn(f"{at}.bn3", out)
            x = (torch.cat((out, F.avg_pool2d(x, 3, 2, 1)), dim=1) if down else out + x).relu()
    return net.linear("linear", x)


def shufflenet_v2(net: Source, x: Tensor) -> Tensor:
    def unit(at: str, number: int, x: Tensor, width: int, k: int = 1, s: int = 1) -> Tensor:
        out = net.conv(f"{at}.conv{number}", x, width, k=k, s=s, groups=width if k == 3 else 1)
        out = net.bn(f"{at}.bn{number}", out)
        return out if k == 3 else out.relu()

    x = net.bn("bn1", net.conv("conv1", x, 24, k=1)).relu()
    for stage, (width, blocks) in enumerate(((116, 3), (232, 7), (464, 3)), start=1):
        half, at = width // 2, f"layer{stage}.0"
        left = unit(at, 2, unit(at, 1, x, x.shape[1], k=3, s=2), half)
        right = unit(at, 5, unit(at, 4, unit(at, 3, x, half), half, k=3, s=2), half)
        x = shuffled(torch.cat((left, right), dim=1), 2)
        for block in range(1, blocks + 1):
            at = f"layer{stage}.{block}"
            right = unit(at, 3, unit(at, 2, unit(at, 1, x[:, half:], half), half, k=3), half)
            x = shuffled(torch.cat((x[:, :half], right), dim=1), 2)
    return net.linear("linear", net.bn("bn2", net.conv("conv2", x, 1024, k=1)).relu())


def osnet(net: Source, x: Tensor) -> Tensor:
    def unit(at: str, x: Tensor, width: int, k: int = 1, s: int = 1) -> Tensor:
        return net.bn(f"{at}.bn", net.conv(f"{at}.conv", x, width, k=k, s=s))

    def lite(at: str, x: Tensor) -> Tensor:
        out = net.conv(f"{at}.conv1", x, x.shape[1], k=1)
        return net.bn(f"{at}.bn", net.conv(f"{at}.conv2", out, x.shape[1], groups=x.shape[1])).relu()

    def gated(at: str, x: Tensor) -> Tensor:
        names = [f"{at}.{layer}.{part}" for layer in ("fc1", "fc2") for part in ("weight", "bias")]
        if names[0] not in net.state:
            net.conv(f"{at}.fc2", net.conv(f"{at}.fc1", x, x.shape[1] // 16, k=1, bias=True), x.shape[1], 1, bias=True)
        first, shift, second, offset = (net.state[name] for name in names)
        hidden = F.conv2d(x.mean((2, 3), keepdim=True), first, shift).relu()
        return x * F.conv2d(hidden, second, offset).sigmoid()

    x = F.max_pool2d(unit("conv1", x, 64, k=7, s=2).relu(), 3, 2, 1)
    for stage, width in enumerate((256, 384, 512), start=2):
        for block in range(2):
            at = f"conv{stage}.{block}"
            reduced, scales = unit(f"{at}.conv1", x, width // 4).relu(), []
            for count, letter in enumerate("abcd", start=1):
                scale = reduced
                for number in range(count):
                    scale = lite(f"{at}.conv2{letter}" + (f".{number}" if count > 1 else ""), scale)
                scales.append(scale)
            out = torch.stack([gated(f"{at}.gate", scale) for scale in scales]).sum(dim=0)
            out = unit(f"{at}.conv3", out, width)
            x = (out + (unit(f"{at}.downsample", x, width) if block == 0 else x)).relu()
        if stage < 4:
            x = F.avg_pool2d(unit(f"conv{stage}.2.0", x, width).relu(), 2)
    x = net.linear("fc.0", unit("conv5", x, 512).relu(), 512)
    return net.linear("classifier", net.bn("fc.1", x).relu()[:, :, None, None], 1000)


NARROW = (16, 16, 32, 64)
NETWORKS: dict[str, Callable[[Source, Tensor], Tensor]] = {
    "resnet20": lambda net, x: resnet(net, x, 3, NARROW),
    "resnet50": resnet50,
    "wrn-16-2": lambda net, x: wide_resnet(net, x, 2, 2),
    "vgg8": lambda net, x: vgg(net, x, (1, 1, 1, 1, 1)),
    "mobilenetv2": mobilenet_v2,
    "shufflenetv1": shufflenet_v1,
    "shufflenetv2": shufflenet_v2,
    "osnet": osnet,
}


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def logits(config: Path, checkpoint: Path) -> Tensor:
    model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"], strict=True)
    model.eval()
    with torch.no_grad():
        return model.head(model.extract_feat(images()))


@pytest.fixture
def resnet8() -> dict[str, Tensor]:
    net = Source()
    resnet(net, images(), 1, NARROW)
    return net.state


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_computes_the_logits_of_the_source(name: str, tmp_path: Path) -> None:
    net = Source()
    expected = NETWORKS[name](net, images())
    torch.save({"epoch": 240, "model": net.state, "accuracy": torch.tensor(70.0)}, tmp_path / "src.pth")
    config = OSNET if name == "osnet" else CIFAR100 / f"{name}_1xb64_cifar100.py"
    meta = convert_checkpoint(tmp_path / "src.pth", config, tmp_path / "new" / "dst.pth")
    assert meta["source"] == "src.pth"
    torch.testing.assert_close(logits(config, tmp_path / "new" / "dst.pth"), expected, rtol=1e-4, atol=1e-4)
    written = torch.load(tmp_path / "new" / "dst.pth", weights_only=True)
    assert sorted(os.listdir(tmp_path / "new")) == ["dst.pth"]
    assert name == "osnet" or written["meta"]["dataset_meta"]["classes"] == CIFAR100_CATEGORIES
    assert len(written["state_dict"]) == len(net.state)
    assert all(int(value) == 7 for key, value in written["state_dict"].items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize(("key", "prefix"), [(None, ""), ("state_dict", "module.")])
def test_original_cifar10_resnets(key: str | None, prefix: str, tmp_path: Path) -> None:
    net = Source()
    expected = resnet(net, images(), 3, NARROW, option_a=True)
    # torch 0.4.0 wrote no batch counters.
    state = {f"{prefix}{name}": value for name, value in net.state.items() if "num_batches" not in name}
    torch.save({key: state, "best_prec1": 91.7} if key else state, tmp_path / "src.pt")
    config = ROOT / "configs" / "classification" / "cifar10" / "resnet20a_1xb64_cifar10.py"
    convert_checkpoint(tmp_path / "src.pt", config, tmp_path / "dst.pth")
    torch.testing.assert_close(logits(config, tmp_path / "dst.pth"), expected, rtol=1e-4, atol=1e-4)


def test_a_source_that_does_not_fit_is_one_line_and_nothing_is_written(
    resnet8: dict[str, Tensor], tmp_path: Path
) -> None:
    src, dst, config = tmp_path / "src.pth", tmp_path / "dst.pth", CIFAR100 / "resnet8_1xb64_cifar100.py"
    dst.write_bytes(b"the old file")
    without_a_block = {name: value for name, value in resnet8.items() if not name.startswith("layer2.0.conv2")}
    ten_classes = {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    for state, message in (
        (without_a_block, "missing: backbone.layer2.0.conv2.weight"),
        ({**resnet8, "embed.linear.weight": torch.zeros(2, 2)}, "left over: embed.linear.weight"),
        ({**resnet8, **ten_classes}, r"missing: head.fc.weight \(100, 64\), .* left over: fc.weight \(10, 64\)"),
    ):
        torch.save(state, src)
        assert_refused(message, convert_checkpoint, src, config, dst)
        assert dst.read_bytes() == b"the old file"
        assert sorted(os.listdir(tmp_path)) == ["dst.pth", "src.pth"]


def test_a_file_of_lightning(resnet8: dict[str, Tensor], tmp_path: Path) -> None:
    """It has the names of the network below a prefix, and tensors of its own beside them."""
    config = CIFAR100 / "resnet8_1xb64_cifar100.py"
    torch.save(resnet8, tmp_path / "src.pth")
    convert_checkpoint(tmp_path / "src.pth", config, tmp_path / "own.pth")
    own = torch.load(tmp_path / "own.pth", weights_only=True)["state_dict"]
    stored = {f"model.{name}": value for name, value in own.items()} | {"criterion.weight": torch.ones(100)}
    torch.save({"state_dict": stored, "epoch": 3}, tmp_path / "lightning.ckpt")
    convert_checkpoint(tmp_path / "lightning.ckpt", config, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"]
    assert own.keys() == again.keys()
    assert all(value.equal(again[name]) for name, value in own.items())


def test_padding_shortcuts_are_recognised(tmp_path: Path) -> None:
    net = Source()
    resnet(net, images(), 1, NARROW, option_a=True)
    torch.save(net.state, tmp_path / "src.pth")
    config = ROOT / "configs" / "classification" / "cifar10" / "resnet8_1xb64_cifar10.py"
    assert_refused("shortcut='pad'", convert_checkpoint, tmp_path / "src.pth", config, tmp_path / "dst.pth")


def test_files_that_cannot_be_read_safely(resnet8: dict[str, Tensor], tmp_path: Path) -> None:
    src, config = tmp_path / "src.pth", CIFAR100 / "resnet8_1xb64_cifar100.py"
    torch.save({"model": resnet8}, src)
    truncated = src.read_bytes()[:5000]
    for content, message in (
        ({"model": resnet8, "opt": Bomb(tmp_path / "ran")}, "cannot be read safely"),
        ({"model": resnet8, "opt": argparse.Namespace(lr=0.05)}, "it holds a argparse.Namespace"),
        (truncated, "src.pth"),
        (b"<html>not found</html>", "src.pth"),
        ({"epoch": 3}, "holds no state dict"),
    ):
        if isinstance(content, bytes):
            src.write_bytes(content)
        else:
            torch.save(content, src)
        assert_refused(message, convert_checkpoint, src, config, tmp_path / "dst.pth")
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "dst.pth").exists()


def test_wrong_paths_and_networks(resnet8: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(resnet8, tmp_path / "src.pth")
    config = CIFAR100 / "resnet8_1xb64_cifar100.py"
    with pytest.raises(FileNotFoundError, match="checkpoint .*/other.pth does not exist"):
        convert_checkpoint(tmp_path / "other.pth", config, tmp_path / "dst.pth")
    with pytest.raises(FileNotFoundError, match="other.py' does not exist"):
        convert_checkpoint(tmp_path / "src.pth", tmp_path / "other.py", tmp_path / "dst.pth")
    imagenet = ROOT / "configs" / "classification" / "imagenet" / "mobilenetv1_8xb32_in1k.py"
    with pytest.raises(ValueError, match="MobileNetV1; known are DistilledVisionTransformer, EfficientNet, "):
        convert_checkpoint(tmp_path / "src.pth", imagenet, tmp_path / "dst.pth")
    with pytest.raises(ValueError, match="plain config"):
        convert_checkpoint(tmp_path / "src.pth", {"model": {"type": "kd_mm.Distiller"}}, tmp_path / "dst.pth")


def test_the_command_line(tools: Tools, resnet8: dict[str, Tensor], tmp_path: Path) -> None:
    src, dst = tmp_path / "src.pth", tmp_path / "dst.pth"
    torch.save(resnet8, src)
    line = tools.refused("convert_checkpoint", src, CIFAR100 / "resnet20_1xb64_cifar100.py", dst)
    assert "missing: backbone.layer1.1.conv1.weight" in line
    onto_itself = tools.refused("convert_checkpoint", src, CIFAR100 / "resnet8_1xb64_cifar100.py", src)
    assert "src.pth onto itself: give another name" in onto_itself
    done = tools.succeeds("convert_checkpoint", src, CIFAR100 / "resnet8_1xb64_cifar100.py", dst)
    assert done.out.splitlines()[-1] == f"src.pth (CIFARResNet) -> {dst}"
    assert dst.is_file()
    child = tmp_path / "child.py"
    child.write_text('_base_ = "kd_mm::quickstart/teacher_digits.py"\n')
    torch.save(build_network(str(child)).state_dict(), src)
    tools.succeeds("convert_checkpoint", src, child, dst)
    traced = tools.run("convert_checkpoint", src, tmp_path / "missing.py", dst, "--traceback")
    assert traced.status == 1
    assert "Traceback" in traced.err
    assert "does not exist" in traced.err.splitlines()[-1]
