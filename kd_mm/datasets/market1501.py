"""Market-1501, or one's own folder in its layout, for person re-identification."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from kd_mm.datasets.damaged_images import DamagedImageCheck
from kd_mm.datasets.image_files import is_image
from kd_mm.datasets.utils import add_metainfo, require_layout
from kd_mm.registry import DATASETS
from kd_mm.utils.suggest import choice, join_first, warn

#: Folders by the part that they hold, and how many images the official ones have.
FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
OFFICIAL_COUNTS = {"train": 12936, "query": 3368, "gallery": 19732}
#: Folders of a split, in the order of its samples.
SPLITS = {"train": ("train",), "query": ("query",), "gallery": ("gallery",), "test": ("query", "gallery")}
JUNK, DISTRACTOR = -1, 0
_META = ("pid", "camid", "role", "img_path", "sample_idx")
_NAME = re.compile(r"(-1|\d+)_[cC](\d+)(?!\d)")


@DATASETS.register_module()
class Market1501(DamagedImageCheck, BaseDataset):
    """Market-1501 (Zheng et al., ICCV 2015), or any folder in its layout.

    A file is named ``<identity>_c<camera>...``, e.g. ``0002_c1s1_000451_03.jpg``. Identity -1 is junk and left out;
    identity 0 is a distractor: it stays in the gallery and matches nobody. Samples are dicts of ``img_path``, ``pid``,
    ``camid``, ``role`` (``"train"``, ``"query"``, ``"gallery"``) and, for training, ``gt_label``: identities counted
    from 0 in the order of their numbers, or of ``classes``. The same goes into the metainfo of each data sample,
    whatever the pipeline packs. Metainfo of the set: ``dataset`` (name), ``num_junk`` (images left out), and for
    training ``classes`` (the identities as text, e.g. ``"0002"``), which are compared with those of a teacher.

    Args:
        data_root: The folder with ``bounding_box_train``, ``query`` and ``bounding_box_test``.
        split: ``"train"`` (default), ``"query"``, ``"gallery"``, or ``"test"``: the queries, then the gallery.
        expected_counts: Numbers of images of the folders of ``"train"``, ``"query"`` and ``"gallery"``, junk included.
            Default: the official numbers; None for a folder of your own.
        on_error: ``"stop"`` or ``"skip"`` at images that are damaged or whose name cannot be parsed, see
            :class:`~kd_mm.datasets.damaged_images.DamagedImageCheck`.
        metainfo: Overrides; ``classes`` gives the order of the identities, and may name more than the folder holds.
        **kwargs: As for mmpretrain's ``BaseDataset`` (``pipeline``, ``test_mode``, ``indices`` ...).

    Raises:
        FileNotFoundError: A folder of the split is missing.
        ValueError: An unknown split, another number of images than expected, unusable images under ``"stop"``, no
            image, a query or training identity numbered 0, or a training identity that ``classes`` lacks.
    """

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        expected_counts: Mapping[str, int] | None = OFFICIAL_COUNTS,
        metainfo: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.split = choice("Market1501: split", split, SPLITS)
        self.expected_counts = dict(expected_counts or {})
        root = Path(data_root).expanduser()
        self.title = "Market-1501" if self.expected_counts == OFFICIAL_COUNTS else root.absolute().name
        kwargs.setdefault("test_mode", split != "train")
        super().__init__(ann_file="", data_root=str(root), metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one dict an image, in the order of the folders of the split and of the file names."""
        parts = SPLITS[self.split]
        require_layout(
            self.title,
            self.data_root,
            [f"{FOLDERS[part]}/" for part in parts],
            "the authors of Zheng et al., ICCV 2015 (Market-1501-v15.09.15.zip), or make your own in this layout",
        )
        samples = [sample for part in parts for sample in self._read_folder(part)]
        self._metainfo["dataset"] = self.title
        self._metainfo["num_junk"] = sum(sample["pid"] == JUNK for sample in samples)
        samples = [sample for sample in samples if sample["pid"] != JUNK]
        if self.split == "train":
            self._label(samples)
        else:
            self._describe(samples)
        return samples

    def prepare_data(self, idx: int) -> Any:
        """Return image ``idx`` after the pipeline, with identity, camera and role; None if it is skipped.

        Raises:
            DamagedImageError: It cannot be decoded completely, and is not skipped.
        """
        return add_metainfo(super().prepare_data(idx), self.get_data_info(idx), _META)

    def _read_folder(self, part: str) -> list[dict[str, Any]]:
        """Return the images of one folder, junk included, without other files and subfolders."""
        folder = Path(self.data_root) / FOLDERS[part]
        with os.scandir(folder) as entries:
            files = sorted(e.name for e in entries if not e.name.startswith(".") and not e.is_dir())
        names = [name for name in files if is_image(name)]
        expected = self.expected_counts.get(part)
        if expected is not None and len(names) != expected:
            raise ValueError(
                f"{folder.absolute()} holds {len(names)} images, {self.title} has {expected} there: it is incomplete "
                "or another data set; unpack it anew, or set expected_counts=None for a folder of your own"
            )
        samples, unusable = [], []
        for name in names:
            path = str(folder / name)
            found = _NAME.match(name)
            reason = "" if found else "the name is not <identity>_c<camera>..., as in 0002_c1s1_000451_03.jpg"
            reason = reason or self.check_file(path)
            if reason or not found:
                unusable.append(f"{path} ({reason})")
            else:
                samples.append({"img_path": path, "pid": int(found[1]), "camid": int(found[2]), "role": part})
        self.report_unusable(unusable, len(names), str(folder.absolute()))
        others = sorted({os.path.splitext(name)[1] for name in {*files} - {*names}} - {".db"})
        if samples and others:
            self._warn(f"files of {', '.join(others)} in {folder.absolute()} are not read")
        if not samples:
            folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
            there = f", but folders ({join_first(folders)}), which are not looked into" if folders else ""
            there = f", but files of {', '.join(others)}, which are not read" if others else there
            raise ValueError(f"{folder.absolute()} holds no image that can be used{there}")
        if all(sample["pid"] == JUNK for sample in samples):
            raise ValueError(
                f"{folder.absolute()} holds junk alone: all of its {len(samples)} images are of identity -1"
            )
        if part != "gallery" and any(sample["pid"] == DISTRACTOR for sample in samples):
            raise ValueError(
                f"{folder.absolute()} has an identity numbered 0, which marks distractors of the gallery: number the "
                "identities from 1"
            )
        return samples

    def _label(self, samples: list[dict[str, Any]]) -> None:
        counts = Counter(sample["pid"] for sample in samples)
        try:
            numbers = [int(name) for name in self._metainfo.get("classes", sorted(counts))]
        except ValueError as error:
            raise ValueError(
                f"{self.title}: classes must be the numbers of identities, as in '0002' ({error})"
            ) from None
        self._metainfo["classes"] = tuple(f"{pid:04d}" for pid in numbers)
        labels = {pid: label for label, pid in enumerate(numbers)}
        lacking = [f"{pid:04d}" for pid in sorted(counts) if pid not in labels]
        if lacking:
            raise ValueError(
                f"{self.title}: classes lacks {len(lacking)} of the {len(counts)} training identities: "
                f"{join_first(lacking)}"
            )
        for sample in samples:
            sample["gt_label"] = labels[sample["pid"]]
        single = [f"{pid:04d}" for pid in sorted(counts) if counts[pid] == 1]
        if single:
            self._warn(
                f"{len(single)} of {len(counts)} training identities have one image only ({join_first(single)}): it is "
                "its own positive"
            )

    def _describe(self, samples: list[dict[str, Any]]) -> None:
        """Log the number of images of each kind; warn of query identities that the gallery lacks."""
        pids = {part: [sample["pid"] for sample in samples if sample["role"] == part] for part in SPLITS[self.split]}
        kinds = []
        if "query" in pids:
            kinds.append(f"{len(pids['query'])} queries of {len(set(pids['query']))} identities")
        if "gallery" in pids:
            distractors = pids["gallery"].count(DISTRACTOR)
            kinds.append(f"{len(pids['gallery'])} gallery images, {distractors} of them distractors")
        kinds.append(f"{self._metainfo['num_junk']} junk images left out")
        print_log(f"{self.title}: {'; '.join(kinds)}", "current")
        absent = sorted(set(pids.get("query", ())) - set(pids["gallery"])) if "gallery" in pids else []
        if absent:
            self._warn(
                f"{len(absent)} of {len(set(pids['query']))} query identities are absent from the gallery "
                f"({join_first([f'{pid:04d}' for pid in absent])}): their queries have no match"
            )

    def _warn(self, text: str) -> None:
        warn(f"{self.title}: {text}")
