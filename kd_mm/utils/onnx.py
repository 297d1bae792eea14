"""Networks as ONNX, checked against onnxruntime."""

import importlib.util
import io
from typing import Any

import numpy as np
import torch
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kd_mm.utils.channels import input_channels

#: Largest accepted difference between onnxruntime and torch, relative to the largest torch output (at least 1).
ONNX_TOLERANCE = 1e-4
#: Batch sizes that the ONNX file is checked with; it was traced with another one.
ONNX_BATCHES = (1, 3)
_TRACED_BATCH = 2
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def to_onnx(model: nn.Module, input_size: tuple[int, int]) -> tuple[bytes, float]:
    """Return a network in ``tensor`` mode as the content of an ONNX file with a free batch size.

    Args:
        model: A network with mmengine's ``forward(inputs, mode="tensor")``; put into eval mode on the CPU.
        input_size: Height and width in pixels.

    Returns:
        The content, and the largest difference of onnxruntime from torch over :data:`ONNX_BATCHES`, relative to the
        largest torch output (at least 1).

    Raises:
        ImportError: A package is missing.
        ValueError: The network needs more than images, it cannot be traced with a free batch size, or the difference
            exceeds :data:`ONNX_TOLERANCE`.
    """
    require_onnx()
    network = _TensorMode(model).cpu().eval()
    inputs = torch.randn(_TRACED_BATCH, input_channels(model), *input_size)
    try:
        with torch.no_grad():
            network(inputs)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be exported as ONNX: its forward(inputs, mode='tensor') needs more than "
            "images, as that of detectors of two stages; deploy it by MMDeploy"
        ) from error
    content = _trace(network, inputs)
    differences = {batch: _difference(network, content, input_size, batch) for batch in ONNX_BATCHES}
    for batch, difference in differences.items():
        if not difference <= ONNX_TOLERANCE:
            raise ValueError(
                f"torch's exporter gets this network wrong: with a batch of {batch} onnxruntime differs from torch by "
                f"{difference:.2g} of the largest output, more than {ONNX_TOLERANCE:g}"
            )
    return content, max(differences.values())


class _TensorMode(nn.Module):
    """A network with the outputs of ``tensor`` mode as one flat tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(self.model(inputs, mode="tensor")) if isinstance(leaf, Tensor))


def _trace(network: nn.Module, inputs: Tensor) -> bytes:
    arguments: dict[str, Any] = {"input_names": ["inputs"]}
    try:
        with torch.no_grad():
            if digit_version(torch.__version__) >= digit_version("2.9"):
                batch = torch.export.Dim("batch")
                program = torch.onnx.export(
                    network, (inputs,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **arguments
                )
                if program is None:
                    raise RuntimeError("torch gave no ONNX program")
                return program.model_proto.SerializeToString()
            # The default of torch before 2.9; its `dynamo` takes no free batch size (2.4) or fails on one (2.5, 2.6).
            buffer: Any = io.BytesIO()
            torch.onnx.export(network, (inputs,), buffer, dynamic_axes={"inputs": {0: "batch"}}, **arguments)
            return buffer.getvalue()
    except Exception as error:  # the exporter raises its own types, one for each of its steps
        cause = error.__cause__ or error
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
        raise ValueError(
            f"torch cannot export this network with a free batch size: {type(cause).__name__}: {reason}"
        ) from error


def _difference(network: _TensorMode, content: bytes, input_size: tuple[int, int], batch: int) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = torch.randn(
        batch, input_channels(network.model), *input_size, generator=torch.Generator().manual_seed(batch)
    )
    try:
        outputs = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    except Exception as error:  # onnxruntime's types are not public
        first = str(error).splitlines()[0]
        raise ValueError(f"onnxruntime cannot run the file with a batch of {batch}: {first}") from error
    with torch.no_grad():
        expected = [tensor.float().numpy() for tensor in network(inputs)]
    largest = 0.0
    for output, reference in zip(outputs, expected, strict=True):
        if output.shape != reference.shape:
            raise ValueError(f"onnxruntime gives {output.shape}, torch {reference.shape}, for a batch of {batch}")
        scale = max(1.0, float(np.abs(reference).max()))
        largest = max(largest, float(np.abs(output - reference).max()) / scale)
    return largest


def require_onnx() -> None:
    """Stop where a package that ONNX needs is missing.

    Raises:
        ImportError: Naming the packages and the command that installs them.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'--onnx needs {", ".join(missing)}: pip install "kd-mm[onnx]"')
