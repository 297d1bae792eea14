"""Every recipe has a page that says what it computes, whose it is and how it is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kd_mm.apis.compose import recipe_names
from kd_mm.losses import __all__ as losses

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs" / "methods").glob("*.md"))}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_has_a_page(name: str) -> None:
    assert [page for page, text in PAGES.items() if f"_base_/distillers/{name}.py" in text]
    assert f"`{name}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name: str) -> None:
    text = PAGES[name]
    assert {"## Formula", "## Tasks"} <= set(text.splitlines())
    assert "our reading" in " ".join(text.lower().split())
    assert re.search(r"^python tools/(compare|train)\.py ", text, re.MULTILINE)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert links
    assert [link for link in links if not (ROOT / "docs" / "methods" / link).exists()] == []
    named = set(re.findall(r"kd_mm\.([A-Z]\w*Loss)\b", text))
    assert named <= set(losses)
