"""Why a module of ``custom_imports`` cannot be imported, and where it lies if it is not searched."""

from __future__ import annotations

import difflib
import os
import pkgutil
import sys
from pathlib import Path
from traceback import extract_tb, walk_tb
from types import TracebackType

from kd_mm.apis.explain import said


def import_failure(error: BaseException) -> str | None:
    """Return one line on the module of ``custom_imports`` that an error comes from, or None where it does not.

    The engine's own message lists the search path and leaves out the cause.
    """
    module = cause = None
    link: BaseException | None = error
    while link is not None:
        module, cause = module or _requested(link.__traceback__), link
        link = link.__cause__ or link.__context__
    if module is None or cause is None:
        return None
    if isinstance(cause, ModuleNotFoundError) and cause.name == module.partition(".")[0]:
        return f"custom_imports: no module {cause.name!r}{_hint(cause.name)}"
    reason = said(cause).splitlines()[0]
    if not isinstance(cause, ImportError | KeyError):
        reason = f"{type(cause).__name__}: {reason}"
    return f"custom_imports: {module!r} cannot be imported: {reason}{_line(cause)}"


def _requested(where: TracebackType | None) -> str | None:
    for frame, _ in walk_tb(where):
        if frame.f_code.co_name == "import_modules_from_strings":
            return str(frame.f_locals.get("imp"))
    return None


def _line(cause: BaseException) -> str:
    if isinstance(cause, SyntaxError):
        return ""  # its message says so
    own = [frame for frame in extract_tb(cause.__traceback__) if "importlib" not in frame.filename]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _hint(name: str) -> str:
    lies = next((folder for folder in _likely_folders() if _holds(folder, name)), None)
    if lies is not None:
        return f"; it lies in {lies}, which Python does not search: put PYTHONPATH={lies} before the command"
    here = [module.name for module in pkgutil.iter_modules([str(folder) for folder in _likely_folders()])]
    known = [module.name for module in pkgutil.iter_modules()]
    near = difflib.get_close_matches(name, here, n=1) or difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f", did you mean {near[0]!r}?" if near else "; put PYTHONPATH=FOLDER_OF_THE_MODULE before the command"


def _likely_folders() -> list[Path]:
    """The current folder, and those of the files that the command line names."""
    named = [Path(word).absolute().parent for word in sys.argv[1:] if word.endswith(".py") and os.path.isfile(word)]
    return list(dict.fromkeys([Path.cwd(), *named]))


def _holds(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
