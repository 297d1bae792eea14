"""Public checkpoints, renamed to plain mmpretrain checkpoints.

Known sources: torchvision's and timm's ResNets, ResNeXts, MobileNets, EfficientNets, Swin and Vision Transformers,
``HobbitLong/RepDistiller`` (the teachers of the CIFAR-100 benchmark), CIFAR-10 ResNets in the form of
``akamaster/pytorch_resnet_cifar10``, and the OSNets of ``KaiyangZhou/deep-person-reid`` (without instance
normalisation).
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpretrain.registry import DATASETS

from kd_mm.utils.atomic_files import save_atomically
from kd_mm.utils.checkpoint import below_prefix, read_checkpoint, student_state_dict
from kd_mm.utils.config import build_network, load_config
from kd_mm.utils.foreign_weights import FAMILIES, own_names


def convert_checkpoint(
    src: str | os.PathLike[str], config: str | os.PathLike[str] | Mapping[str, Any], dst: str | os.PathLike[str]
) -> dict[str, Any]:
    """Rename the tensors of a public checkpoint so that the plain config of the same network loads it.

    Every tensor of the source and every tensor of the network is accounted for, or nothing is written. ``dst`` is
    written atomically. The batch counters of normalisation layers, which files of old torch versions lack, start at 0.

    Args:
        src: File written by ``torch.save``: a state dict, or a dict that holds one under ``model``, ``state_dict`` or
            ``net``, with or without the prefix ``module.``. Loaded without running code from it.
        config: Config of the plain classifier: a path, ``package::path``, or a loaded config.
        dst: Where to write ``dict(meta=..., state_dict=...)``.

    Returns:
        The ``meta`` that was written: ``source`` (file name), ``source_sha256``, ``network`` (type of the backbone)
        and, where the config names a data set, ``dataset_meta`` with its classes.

    Raises:
        FileNotFoundError: If ``src`` or the config does not exist.
        ValueError: If the file cannot be read safely, the network is not a known one, or tensors are missing, left
            over or of another shape. One line each.
    """
    src = Path(src)
    if src.resolve() == Path(dst).resolve():
        raise ValueError(f"cannot convert {src} onto itself: give another name")
    loaded: Any = config if isinstance(config, Mapping) else load_config(os.fspath(config))
    model = loaded.get("model", loaded)
    if model.get("type", "").removeprefix("mmpretrain.") != "ImageClassifier":
        raise ValueError(
            f"a plain config of an ImageClassifier is needed, but this one's model is {model.get('type')}; for a "
            "distillation config give the student's or the teacher's own config"
        )
    network = model["backbone"]["type"].rpartition(".")[2]
    if network not in FAMILIES:
        raise ValueError(f"no other toolkit is known for the backbone {network}; known are {', '.join(FAMILIES)}")
    checkpoint = read_checkpoint(str(src))
    weights = student_state_dict(checkpoint)
    if not weights:
        raise ValueError(f"{src} holds no state dict, neither alone nor under 'model', 'state_dict' or 'net'")
    try:
        built = build_network(loaded)
        state = own_names(built, below_prefix(built.state_dict(), weights))
    except ValueError as error:
        # Only convolutional shortcuts missing: the source is one of the original CIFAR-10 networks.
        padded = "left over" not in str(error) and ".shortcut." in str(error)
        hint = "; its shortcuts have no parameters, which is backbone=dict(shortcut='pad')" if padded else ""
        raise ValueError(f"{src} does not fit the config, nothing was written: {error}{hint}") from error
    meta = {"source": src.name, "source_sha256": hashlib.sha256(src.read_bytes()).hexdigest(), "network": network}
    loader = loaded.get("test_dataloader")
    dataset = DATASETS.get(loader["dataset"]["type"]) if loader else None
    if dataset:  # all known sources use the official order of its classes
        meta["dataset_meta"] = dict(dataset.METAINFO)
    save_atomically({"meta": meta, "state_dict": state}, Path(dst))
    return meta
