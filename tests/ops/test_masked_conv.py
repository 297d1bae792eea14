"""Masked convolution against a plain one."""

import torch
from mmcv.ops import MaskedConv2d


def test_masked_conv() -> None:
    torch.manual_seed(0)
    layer = MaskedConv2d(3, 4, 3, padding=1)
    layer.bias.data.normal_()
    x, mask = torch.randn(1, 3, 5, 6), torch.rand(1, 5, 6).round()
    full = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x, mask), full * mask, rtol=1e-4, atol=1e-5)
    assert (layer(x, torch.zeros(1, 5, 6)) == 0).all()
