"""Write docs/troubleshooting.md: the messages of the code, and to each the cause and remedy of troubleshooting.yaml.

A row of the YAML file names its messages by pieces of them; the page has them whole, as the code does. A piece that no
message has is an error, so a changed message changes the page, or asks for another piece.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import mmengine

import kd_mm

from .helpers.world import ROOT

SOURCE = ROOT / "docs" / "troubleshooting.yaml"
PAGE = SOURCE.with_suffix(".md")
#: A piece that more messages have says too little.
MOST = 6
TEXT = """<!-- Written by python -m tests.troubleshooting_page from the code and troubleshooting.yaml. -->

# Troubleshooting

Messages about data, class lists, checkpoints and runs: search this page for a part of yours without names and numbers,
for which `...` stands. Messages marked (log) are warnings: the run goes on. All others stop it with one line and status
2, before its first step unless marked (in a step). "As the line says": the message itself has the remedy. `--traceback`
shows the line of code.
"""


def main() -> int:
    """Write the page; see the module's text."""
    PAGE.write_text(render())
    return 0


def render() -> str:
    """Return the page."""
    texts = list(messages())
    parts = [TEXT]
    for section, rows in mmengine.load(SOURCE).items():
        lines = [_row(texts, **row) for row in rows]
        parts.append("\n".join([f"## {section}\n", "| symptom | cause | remedy |", "|---|---|---|", *lines, ""]))
    return "\n".join(parts)


def messages() -> Iterator[str]:
    """Yield every text in the code that is no docstring, with ``...`` for what it is given."""
    for file in sorted(Path(kd_mm.__file__).parent.rglob("*.py")):
        seen: set[ast.AST] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Expr):  # a docstring
                seen.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                seen.update(node.values)
            if node not in seen and isinstance(node, (ast.JoinedStr, ast.Constant)):
                yield _text(node)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    text = node.value if isinstance(node, ast.Constant) else "..."
    return " ".join(text.split("\n")) if isinstance(text, str) else ""


def _row(texts: list[str], messages: list[str], cause: str, remedy: str = "as the line says", when: str = "") -> str:
    found = [f"`{_shown(text)}`" for piece in messages for text in _having(texts, piece)]
    symptom = ", ".join(dict.fromkeys(found)) + (f" ({when})" if when else "")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (symptom, cause, remedy)) + " |"


def _having(texts: list[str], piece: str) -> list[str]:
    """Return the messages that have a piece, in the order of the code."""
    pattern = re.compile(".*".join(map(re.escape, piece.split("..."))))
    found = list(dict.fromkeys(text for text in texts if pattern.search(text)))
    if not 0 < len(found) <= MOST:
        raise ValueError(f"{SOURCE}: {len(found)} messages have {piece!r}, one to {MOST} are asked for: {found[:5]}")
    return found


def _shown(text: str) -> str:
    """Return a message without what only says where: the ``...: `` at its beginning and the ``...`` at its end."""
    return re.sub(r"^(?:\.{3}[.:/]* )+|(?<=\.{3})\.+$", "", text).strip(" ,;")


if __name__ == "__main__":
    sys.exit(main())
