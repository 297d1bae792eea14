"""Counts what is odd in a data set while it is read, and says each thing in one line."""

from collections import Counter

#: Images named in one line; the others are counted.
SHOWN = 4


def shortened(items: list[str], separator: str = ", ") -> str:
    """Join the first few items and say how many more there are."""
    more = len(items) - SHOWN
    return separator.join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


class Findings:
    """What was found in the annotations of one split.

    Attributes:
        unusable: One entry an image that cannot be used, with the reason.
        boxes: By what is wrong with a box, the names of the images, one entry a box.
        known: Objects of the class list, by class.
        foreign: Objects of other classes, by class.
    """

    def __init__(self) -> None:
        self.unusable: list[str] = []
        self.boxes: dict[str, list[str]] = {}
        self.known: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()

    def box(self, what: str, image: str) -> None:
        """Count a box that is odd."""
        self.boxes.setdefault(what, []).append(image)

    def lines(self) -> list[str]:
        """Return one line a kind of oddity, without the unusable images."""
        lines = []
        for what, images in self.boxes.items():
            lines.append(f"boxes that {what}: {len(images)}, in {shortened(sorted(set(images)))}")
        if self.foreign:
            counted = [f"{name} ({count})" for name, count in self.foreign.most_common()]
            lines.append(f"objects of classes that are not in the class list are left out: {shortened(counted)}")
        return lines
