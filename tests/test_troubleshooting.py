"""The page of symptoms holds the messages of the code, word by word."""

import ast
import re
from pathlib import Path

import kd_mm

from .helpers.world import ROOT


def messages() -> str:
    """All string constants of the package; those written in several pieces are one."""
    texts = []
    for file in Path(kd_mm.__file__).parent.rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(texts)


def test_symptoms_are_messages() -> None:
    known = messages()
    rows = [line.split("|")[1] for line in (ROOT / "docs/troubleshooting.md").read_text().splitlines() if "| `" in line]
    symptoms = [symptom for row in rows for symptom in re.findall("`([^`]+)`", row)]
    assert len(symptoms) > 30
    unknown = [piece for symptom in symptoms for piece in symptom.split("...") if piece.strip() not in known]
    assert not unknown
