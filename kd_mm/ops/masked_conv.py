"""The two halves of mmcv's masked convolution: gather the patches under a mask, put the results back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_mm.ops._dtype import like_compiled_op


@like_compiled_op
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the patch around each of M positions to a column of `col`.

    Args:
        im: `(1, C, H, W)`.
        mask_h_idx: `(M,)` int64 rows in the output.
        mask_w_idx: `(M,)` int64 columns in the output.
        col: Result buffer `(C * kernel_h * kernel_w, M)`.
        kernel_h: Kernel height.
        kernel_w: Kernel width.
        pad_h: Zero padding along y in pixels.
        pad_w: Zero padding along x in pixels.
    """
    patches = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h)).unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    chosen = patches[:, mask_h_idx, mask_w_idx]
    col.copy_(chosen.permute(0, 2, 3, 1).reshape(col.shape))


@like_compiled_op
def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write each column of `col` `(channels, M)` to its position in `im` `(1, channels, height, width)`."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im.dtype)
