"""Reading configs."""

from pathlib import Path

from kd_mm.utils.config import load_config


def test_values_that_a_written_config_cannot_hold(tmp_path: Path) -> None:
    """Paths, arrays and imported classes, as people compute values in a config."""
    (tmp_path / "base.py").write_text("z = 1\n")
    lines = (
        "_base_ = 'base.py'",
        "from pathlib import Path",
        "import numpy as np",
        "root = Path('data')",
        "x = [dict(y=(np.arange(2), 'z'))]",
    )
    (tmp_path / "a.py").write_text("\n".join(lines))
    load_config(str(tmp_path / "a.py")).dump(tmp_path / "b.py")
    assert load_config(str(tmp_path / "b.py")).to_dict() == {"z": 1, "root": "data", "x": [{"y": ([0, 1], "z")}]}
