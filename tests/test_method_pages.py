"""Every recipe has a page that says what it computes, whose it is and how it is run; the index lists all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kd_mm.apis.recipes import TASK_MODELS, config_root, recipe_names
from kd_mm.losses import __all__ as losses

from .distillers.test_recipes_and_tasks import REFUSED

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"
PAGES = {page.stem: page.read_text() for page in sorted(FOLDER.glob("[a-z]*.md"))}
INDEX = (FOLDER / "README.md").read_text()
#: Name, year, page and a word on each task of a recipe: the rows of the index.
ROW = re.compile(
    r"^\| `(\w+)` \| (\d{4}|) ?\| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \| \[\w[^]]*\]\((\w+)\.md\) \|$", re.MULTILINE
)
ROWS = {name: (page, words) for name, _, *words, page in ROW.findall(INDEX)}


@pytest.mark.parametrize("name", recipe_names(*TASK_MODELS))
def test_a_recipe_has_a_page(name: str) -> None:
    page, _ = ROWS[name]
    folders = {f"_base_/recipes/{kind}{name}.py" for kind in ("", *(f"{kind}/" for kind in TASK_MODELS))}
    assert any(file in PAGES[page] for file in folders)
    assert f"`{name}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", recipe_names(*TASK_MODELS))
def test_the_index_says_what_each_task_has(name: str) -> None:
    words = dict(zip(("classification", "detection", "reid"), ROWS[name][1], strict=True))
    refused = {kind for kind, names in REFUSED.items() if name in names}
    for kind, word in words.items():
        parts = ("two_stage", "dense") if kind == "detection" else (kind,)
        own = (config_root() / "_base_" / "recipes" / kind / f"{name}.py").is_file()
        assert word.split(",")[0] == ("-" if refused >= set(parts) else "own" if own else "yes")
    limits = {"two_stage": "dense" in words["detection"], "dense": "two-stage" in words["detection"]}
    assert limits == {part: part in refused and words["detection"] != "-" for part in limits}


def test_the_index_has_nothing_else() -> None:
    assert list(ROWS) == [name for name, *_ in ROW.findall(INDEX)]
    assert set(ROWS) == set(recipe_names(*TASK_MODELS))
    assert {page for page, _ in ROWS.values()} == set(PAGES)
    assert len(ROWS) + 2 == len([line for line in INDEX.splitlines() if line.startswith("|")])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name: str) -> None:
    text = PAGES[name]
    assert {"## Formula", "## Tasks"} <= set(text.splitlines())
    assert "our reading" in " ".join(text.lower().split())
    assert re.search(r"^python tools/(compare|train)\.py ", text, re.MULTILINE)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []
    named = set(re.findall(r"kd_mm\.([A-Z]\w*Loss)\b", text))
    assert named <= set(losses)
    recipes = re.findall(r"_base_/recipes/([\w/]+\.py)", text)
    assert recipes
    assert [recipe for recipe in recipes if not (config_root() / "_base_" / "recipes" / recipe).is_file()] == []
    configs = re.findall(r"\bconfigs/([\w./-]+\.py)", text)
    assert [config for config in configs if not (config_root() / config).is_file()] == []
