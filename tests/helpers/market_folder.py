"""Write small folders in the layout of Market-1501."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


class MarketFolder:
    """People as one colour each, plus noise, in pictures of 32 x 16 pixels."""

    def __init__(self, root: Path) -> None:
        self.root, self.count = root, 0
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)

    def add(self, folder: str, pid: int, camid: int, images: int = 1, suffix: str = ".jpg") -> list[Path]:
        """Write images of one person from one camera."""
        person = np.random.RandomState(pid + 7).randint(0, 200, 3)
        paths = []
        for _ in range(images):
            self.count += 1
            noise = np.random.RandomState(self.count).randint(0, 50, (32, 16, 3))
            label = f"{pid:04d}" if pid >= 0 else str(pid)
            path = self.root / folder / f"{label}_c{camid}s1_{self.count:06d}_00{suffix}"
            Image.fromarray((person + noise).astype(np.uint8)).save(path)
            paths.append(path)
        return paths

    def fill(self, identities: int = 6, images: int = 4) -> MarketFolder:
        """Training identities 2, 4, ...; test identities 1, 3, ... with two junk images and a distractor."""
        for number in range(identities):
            for camid in (1, 2):
                self.add("bounding_box_train", 2 * number + 2, camid, images // 2)
        for number in range(3):
            self.add("query", 2 * number + 1, 1)
            self.add("bounding_box_test", 2 * number + 1, 2, 2)
        self.add("bounding_box_test", -1, 1, 2)
        self.add("bounding_box_test", 0, 1)
        return self
