"""Pages of the docs hold what the code has: a page for each recipe, and the messages of the page of symptoms."""

import re

from kd_mm import losses
from kd_mm.apis.recipes import TASK_MODELS, config_root, recipe_names

from .distillers.test_recipes_and_tasks import REFUSED
from .helpers.world import ROOT
from .troubleshooting_page import PAGE, render

FOLDER = ROOT / "docs" / "methods"
PAGES = {page.stem: page.read_text() for page in sorted(FOLDER.glob("[a-z]*.md"))}
INDEX = (FOLDER / "README.md").read_text()
#: Name, year, page and a word on each task of a recipe: the rows of the index.
ROW = re.compile(
    r"^\| `(\w+)` \| (\d{4}|) ?\| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \| \[\w[^]]*\]\((\w+)\.md\) \|$", re.MULTILINE
)
ROWS = {name: (page, words) for name, _, *words, page in ROW.findall(INDEX)}


def test_each_recipe_has_a_page_and_the_index_says_what_each_task_has() -> None:
    assert set(ROWS) == set(recipe_names(*TASK_MODELS))
    assert {page for page, _ in ROWS.values()} == set(PAGES)
    for name, (page, row) in ROWS.items():
        assert re.search(rf"_base_/recipes/(\w+/)?{name}\.py", PAGES[page]), name
        words = dict(zip(("classification", "detection", "reid"), row, strict=True))
        refused = {kind for kind, names in REFUSED.items() if name in names}
        for kind, word in words.items():
            parts = ("two_stage", "dense") if kind == "detection" else (kind,)
            own = (config_root() / "_base_" / "recipes" / kind / f"{name}.py").is_file()
            assert word.split(",")[0] == ("-" if refused >= set(parts) else "own" if own else "yes"), name
        limits = {"two_stage": "dense" in words["detection"], "dense": "two-stage" in words["detection"]}
        assert limits == {part: part in refused and words["detection"] != "-" for part in limits}, name


def test_every_page_has_its_parts() -> None:
    for name, text in PAGES.items():
        assert {"## Formula", "## Tasks"} <= set(text.splitlines()), name
        assert "our reading" in " ".join(text.lower().split()), name
        assert re.search(r"^python tools/(compare|train)\.py ", text, re.MULTILINE), name
        assert set(re.findall(r"kd_mm\.([A-Z]\w*Loss)\b", text)) <= set(vars(losses)), name


def test_the_troubleshooting_page_has_the_messages_of_the_code() -> None:
    assert PAGE.read_text() == render(), "to write it: python -m tests.troubleshooting_page"
