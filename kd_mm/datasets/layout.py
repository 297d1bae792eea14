"""One clear line for a data set that is not where it was looked for."""

from collections.abc import Iterable
from pathlib import Path


def require_layout(name: str, folder: str | Path, expected: Iterable[str], source: str) -> None:
    """Stop unless ``folder`` holds every entry of ``expected``.

    Args:
        name: What the data set is called in the message.
        folder: The folder that is looked into.
        expected: Files and folders, relative to ``folder``; a folder ends with a slash.
        source: Where the data set is to be had, as text.

    Raises:
        FileNotFoundError: Naming the folder (absolute), what it lacks and where to get the data set.
    """
    root = Path(folder).expanduser().absolute()
    expected = list(expected)
    lacking = [entry for entry in expected if not (root / entry).exists()]
    if lacking:
        found = "no such folder" if not root.is_dir() else f"it lacks {', '.join(lacking)}"
        raise FileNotFoundError(
            f"{name} not found: looked in {root} for {', '.join(expected)}, but {found}. Nothing is downloaded: get it "
            f"from {source} and put it there, or set data_root."
        )
