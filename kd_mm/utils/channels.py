"""The number of input channels of a network, for runs on generated images."""

import contextlib
import re
from collections.abc import Iterator

from torch import nn

#: Input channels of a first convolution over rearranged 2 x 2 pixels (YOLOX, YOLOv5), to those of the image.
_REARRANGED = {12: 3}
_MOST_OF_AN_IMAGE = 4
#: Of torch: what a convolution says of images of another number of channels.
_WRONG = re.compile(r"expected input\[.*\] to have (\d+) channels, but got (\d+) channels")

#: Of torch: what other layers say of an input of another width.
_MISFITS = ("shapes cannot be multiplied", "running_mean should contain", "normalized_shape=")

#: What torch says of a map that is smaller than the layer needs.
_TOO_SMALL = ("Output size is too small", "Kernel size can't be greater than actual input size")


def wrong_channels(error: Exception) -> tuple[int, int] | None:
    """Return the channels that a convolution takes and those that it was given, where that is what failed."""
    found = _WRONG.search(str(error))
    return (int(found[1]), int(found[2])) if found else None


def is_misfit(error: Exception) -> bool:
    """Return whether a layer that is no convolution was given another width than its own, or too small a map."""
    return any(words in str(error) for words in (*_MISFITS, *_TOO_SMALL))


def misfit(error: Exception) -> str:
    """Return one line on a layer that does not take what the one before it gives."""
    if any(words in str(error) for words in _TOO_SMALL):
        return (
            f"the images are too small for the network ({error}): take larger ones (in a dry run model.input_size or "
            "--input-size), or a network of fewer strides"
        )
    return (
        f"a layer of a network does not fit what comes before it ({error}): set in_channels of its neck and head to "
        "the channels that its backbone gives"
    )


@contextlib.contextmanager
def explained_channels() -> Iterator[None]:
    """Explain a dry run that fails because a network, or a layer in it, does not take what it is given.

    Raises:
        ValueError: It does.
    """
    try:
        yield
    except RuntimeError as error:
        found = wrong_channels(error)
        inner = found[1] > _MOST_OF_AN_IMAGE if found else is_misfit(error)
        if inner:
            raise ValueError(f"dry run: {misfit(error)}") from error
        if found is None:
            raise
        raise ValueError(
            f"dry run: the first layer of a network takes {found[0]} channels, the mean of its data_preprocessor has "
            f"{found[1]}: set in_channels of its backbone, or mean and std of the data_preprocessor"
        ) from error


def input_channels(model: nn.Module) -> int:
    """Return the number of channels of the images that a network takes.

    These are the entries of the data preprocessor's mean, if there are several; otherwise the input channels of the
    first convolution of the backbone, where 12 are three channels of 2 x 2 pixels; 3 without a convolution.

    Args:
        model: A model with a ``data_preprocessor``, or a backbone.
    """
    parts = dict(model.named_children())
    mean = dict(parts["data_preprocessor"].named_buffers()).get("mean") if "data_preprocessor" in parts else None
    if mean is not None and mean.numel() > 1:
        return mean.numel()
    trunk = parts.get("backbone", model)
    first = next((layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d)), None)
    return _REARRANGED.get(first.in_channels, first.in_channels) if first is not None else 3
