"""Files of class names as people write them."""

from pathlib import Path

from kd_mm.datasets.text_files import read_names


def test_names(tmp_path: Path) -> None:
    for text, names in (
        ("cat\n\ngreat dog \n", ["cat", "great dog"]),
        ("# my pets\n'cat',\n\"dog\"\n", ["cat", "dog"]),
        ("cat, dog,eel\n", ["cat", "dog", "eel"]),
        (
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\nbig dog:1,2,3:ear:\n",
            ["cat", "big dog"],
        ),
        ('["cat",\n "dog"]', ["cat", "dog"]),
        ('{"1": "dog",\n "0": "cat"}', ["cat", "dog"]),
        ('{"cat": 1, "no": 0, "dog": 2}', ["no", "cat", "dog"]),
        ("[cat] large\n[dog]\n", ["[cat] large", "[dog]"]),
        ("0 cat\n1 dog\n", ["cat", "dog"]),
        ("1: cat\n2: 3 dogs\n", ["cat", "3 dogs"]),
        ("3 cats\n2 dogs\n", ["3 cats", "2 dogs"]),
        ("0\n1\n2\n", ["0", "1", "2"]),
        ("id,name\n0,cat\n1,dog\n", ["cat", "dog"]),
        ("class;number\ncat;1\ngreat dog;2\n", ["cat", "great dog"]),
        ("stage, 1\nstage, 2\n", ["stage, 1", "stage, 2"]),
        ("pets\ncat\ndog\n", ["pets", "cat", "dog"]),
        ("tench, Tinca tinca\ngoldfish\n", ["tench, Tinca tinca", "goldfish"]),
    ):
        (tmp_path / "names.txt").write_text(text)
        assert read_names(tmp_path / "names.txt") == names
    for text in ("nc: 2\nnames: [cat, no]\n", "names:\n  1: no\n  0: cat\n", "- cat\n- no  # way\n"):
        (tmp_path / "data.yaml").write_text(text)
        assert read_names(tmp_path / "data.yaml") == ["cat", "no"]
