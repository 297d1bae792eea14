"""Class lists, file endings and sizes of images in the data sets of a config, as the data sets need them."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_mm.datasets.image_files import IMAGE_SUFFIXES
from kd_mm.datasets.text_files import read_names
from kd_mm.utils.config import data_sets, parts_of
from kd_mm.utils.suggest import choice, nearest_file

#: What may be done about images of another size than their annotations state, ``size_mismatch`` at the top of a config.
SIZE_POLICIES = ("stop", "rescale", "keep")


def clean_data_sets(config: Config) -> None:
    """Strip class names, read files of them, let class folders hold every format, and scale images where that is asked.

    Class names of a file often end in its line breaks, or begin with its byte order mark. mmpretrain's
    ``CustomDataset`` and ``ImageNet`` leave out WebP and ``.tiff`` in silence.

    Args:
        config: Its data loaders are changed in place.

    Raises:
        FileNotFoundError: There is no such file of class names.
        ValueError: It cannot be read, a class list is a dict or has another key, or ``size_mismatch`` is unknown.
    """
    policy = choice("size_mismatch", config.get("size_mismatch", "stop"), SIZE_POLICIES)
    for _, dataset in data_sets(config):
        for _, part in parts_of({"dataset": dataset}):
            if isinstance(part, dict):
                _clean(part)
            elif isinstance(part, list) and policy == "rescale":  # behind the loading step
                types = [str(step.get("type")) if isinstance(step, dict) else "" for step in part]
                loading = [number for number, name in enumerate(types) if name.endswith("LoadImageFromFile")]
                if loading:
                    part.insert(loading[0] + 1, {"type": "kd_mm.ScaleToAnnotation"})


def _clean(part: dict[str, Any]) -> None:
    if isinstance(part.get("metainfo"), dict):
        for name in set(part["metainfo"]) - {"classes"}:
            if get_close_matches(str(name).lower(), ["classes"]):
                raise ValueError(f"metainfo=dict({name}=...): nothing reads {name!r}, did you mean 'classes'?")
        _clean_classes(part["metainfo"])
    for option in ("data_root", "ann_file"):
        if str(part.get(option)).startswith("~"):
            part[option] = str(Path(part[option]).expanduser())
    prefix = part.get("data_prefix", {"img": ""})
    if str(part.get("type")).endswith("CocoDataset") and not (isinstance(prefix, dict) and "img" in prefix):
        raise ValueError(f"data_prefix={prefix!r}: write the folder of the images as data_prefix=dict(img='FOLDER/')")
    if "type" in part:
        _clean_classes(part)
        if str(part["type"]).rpartition(".")[2] in ("CustomDataset", "ImageNet"):
            part.setdefault("extensions", IMAGE_SUFFIXES)


def _clean_classes(part: dict[str, Any]) -> None:
    classes = part.get("classes")
    if isinstance(classes, dict | set):  # a set has another order in each process
        kind = type(classes).__name__
        raise ValueError(f"classes is a {kind} ({classes}): write the names in their order, as classes=('cat', 'dog')")
    if isinstance(classes, str) and (Path(classes).is_file() or Path(classes).suffix or "/" in classes):
        file = Path(classes)
        if not file.is_file():
            raise FileNotFoundError(f"the file of class names {classes!r} does not exist{nearest_file(file)}")
        part["classes"] = tuple(read_names(classes))
        if others := [name for name in part["classes"] if not isinstance(name, str)]:
            raise ValueError(f"the file of class names {classes!r}: {others[0]!r} is no name: write a list of names")
    elif isinstance(classes, str | list | tuple):
        names = classes.split(",") if isinstance(classes, str) else classes  # one without the comma of a tuple
        part["classes"] = tuple(filter(None, (str(name).lstrip("\ufeff").strip() for name in names)))
