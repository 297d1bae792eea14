"""Imports of the package point down its layers, so that there is no circle."""

import ast
from pathlib import Path

import kd_mm

#: From low to high; packages of one row do not import each other.
LAYERS = (
    ("registry", "ops"),
    ("utils",),
    ("engine",),
    ("stages",),
    ("losses",),
    ("models",),
    ("tasks",),
    ("distillers",),
    ("preparation",),
    ("hooks", "datasets", "evaluation"),
    ("checks",),
    ("apis",),
    ("api",),
    ("quickstart",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(tree: ast.AST) -> set[str]:
    """Return the packages of kd_mm that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "kd_mm":
            names |= {f"kd_mm.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("kd_mm.")} & RANK.keys()


def test_imports_point_down_the_layers() -> None:
    root = Path(kd_mm.__file__).parent
    upward = []
    for file in sorted(root.rglob("*.py")):
        source = file.relative_to(root).with_suffix("").parts[0]
        if source == "__init__":  # gives access to all
            continue
        assert source in RANK, f"{file} has no layer"
        for target in sorted(imported(ast.parse(file.read_text())) - {source}):
            if RANK[target] >= RANK[source]:
                upward.append(f"{file.relative_to(root)} imports kd_mm.{target}")
    assert not upward, "\n".join(upward)
