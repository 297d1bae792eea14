"""Rows of a comparison: recipes on plain configs, ablations."""

from pathlib import Path

from mmengine.config import Config

from kd_mm.apis.rows import read_sweep

from ..helpers.errors import assert_refused
from ..helpers.reading import each_base_once

STUDENT = "kd_mm::quickstart/student_digits.py"
PAIRS = "kd_mm::sweeps/cifar100_pairs.py"
FILE_TEACHER = {"teacher": ["kd_mm::quickstart/teacher_digits.py"], "teacher_checkpoint": ["t.pth"]}
TEACHER = {"teacher": ["kd_mm::quickstart/teacher_digits.py"], "checkpoint": ["t.pth"]}


def read_rows(*arguments, **options) -> dict[str, Config]:
    return {name: row.config for name, row in read_sweep(*arguments, **options).rows.items()}


def active(config: Config) -> set[str]:
    return {name for name, loss in config.model.recipe.losses.items() if loss.loss_weight != 0}


def test_each_recipe_is_a_row_beside_the_plain_config_which_its_keys_leave_alone(tmp_path: Path) -> None:
    rows = read_rows([STUDENT], ["kd", "mtkd_ssr"], **TEACHER, options={"train_cfg.max_epochs": 1})
    assert list(rows) == ["student_digits", "kd", "mtkd_ssr"]
    assert {row.train_cfg.max_epochs for row in rows.values()} == {1}
    assert rows["kd"].model.type == "kd_mm.Distiller"
    assert rows["student_digits"].model.type.endswith("ImageClassifier")
    rows = read_rows([STUDENT], ["kd"], **TEACHER, options={"model.recipe.losses.kd.temperature": 2.0})
    assert rows["kd"].model.recipe.losses.kd.temperature == 2.0
    assert "recipe" not in rows["student_digits"].model
    other = tmp_path / "other.py"
    other.write_text(f"_base_ = ['{STUDENT}']\n")
    rows = read_rows([STUDENT, str(other)], ["kd"], **TEACHER)
    assert list(rows) == ["student_digits", "kd_student_digits", "other", "kd_other"]


def test_ablations_are_each_loss_alone_and_in_pairs() -> None:
    rows = read_rows([STUDENT], ["kd", "mtkd_ssr"], **TEACHER, ablate=["scd", "srd", "review"])
    kept = {name: active(row) for name, row in rows.items() if name.startswith("mtkd_ssr")}
    assert kept == {
        "mtkd_ssr": {"aux", "scd", "srd", "review"},
        "mtkd_ssr without srd, review": {"aux", "scd"},
        "mtkd_ssr without scd, review": {"aux", "srd"},
        "mtkd_ssr without scd, srd": {"aux", "review"},
        "mtkd_ssr without review": {"aux", "scd", "srd"},
        "mtkd_ssr without srd": {"aux", "scd", "review"},
        "mtkd_ssr without scd": {"aux", "srd", "review"},
    }
    assert "kd" in rows


def test_each_value_of_a_key_is_a_row_where_its_part_exists() -> None:
    vary = {"model.recipe.losses.review.direction": ["bidirectional", "ensemble"], "train_cfg.max_epochs": 7}
    rows = read_rows([STUDENT], ["kd", "mtkd_ssr"], **TEACHER, vary=vary)
    directions = [f"mtkd_ssr review.direction={value}" for value in ("bidirectional", "ensemble")]
    assert list(rows).index(directions[0]) == list(rows).index("mtkd_ssr") + 1
    assert [name for name in rows if "direction" in name] == directions
    assert [rows[name].model.recipe.losses.review.get("direction") for name in ("mtkd_ssr", *directions)] == [
        None,
        "bidirectional",
        "ensemble",
    ]
    assert rows[directions[0]].model.recipe.losses.srd == rows["mtkd_ssr"].model.recipe.losses.srd
    longer = {name for name, row in rows.items() if row.train_cfg.max_epochs == 7}
    assert longer == {"student_digits max_epochs=7", "kd max_epochs=7", "mtkd_ssr max_epochs=7"}


def test_what_does_not_exist_is_refused() -> None:
    for arguments, message in (
        ({"distillers": ["mtkd_ssr"], "ablate": ["srd", "scdd"]}, "did you mean 'scd'"),
        ({"distillers": ["mtkd_ssr"], "ablate": ["srd"]}, "--ablate srd: name two losses or more"),
        ({"distillers": ["kd"], "seeds": [-1]}, "seeds: -1 is no seed"),
        ({"distillers": ["kdd"]}, "did you mean 'kd'"),
        ({"configs": [STUDENT, STUDENT]}, "two of the configs are called student_digits: give each once"),
        ({}, "--teacher and --teacher-checkpoint go with --distillers"),
        ({"distillers": ["kd", "kd"]}, "recipe kd is given twice"),
        ({"distillers": ["kd"], "vary": {"model.recipe.losses.kd.temprature": 2}}, "did you mean 'temperature'"),
        (
            {"distillers": ["kd"], "vary": {"model.recipe.losses.kdd.temperature": 2}},
            "no row of the table has the part",
        ),
        ({"distillers": ["kd"], "vary": {"model.recipe.losses.kd.temperature": [2, 2]}}, "comes twice"),
    ):
        assert_refused(message, read_rows, **{"configs": [STUDENT], **TEACHER, **arguments})


def test_the_shipped_sweep_has_each_pair_of_the_table() -> None:
    with each_base_once():
        sweep = read_sweep([PAIRS], metrics=["accuracy/top5"])
    assert (sweep.seeds, sweep.metrics) == ((0, 1, 2), ("accuracy/top5",))
    pairs = {name.partition("_")[2] for name in sweep.rows if name.startswith("kd_")}
    assert len(pairs) == 13
    row = sweep.rows["mtkd_ssr_resnet56_resnet20"]
    assert (row.teacher_row, row.seeds, sweep.rows["resnet56"].seeds) == ("resnet56", None, (0,))
    assert row.config.model.student.backbone == sweep.rows["resnet20"].config.model.backbone
    assert active(row.config) == {"aux", "scd", "srd", "review"}


def test_rows_without_a_name_are_called_by_what_differs(tmp_path: Path) -> None:
    mtkd = {"config": STUDENT, "distiller": "mtkd_ssr", **{k: v[0] for k, v in FILE_TEACHER.items()}}
    shared, losses = {"model.recipe.teacher_exits.epochs": 1}, "model.recipe.losses"
    entries = [
        {"config": STUDENT},
        {**mtkd, "distiller": "kd"},
        {**mtkd, "cfg_options": shared},
        {**mtkd, "cfg_options": {**shared, f"{losses}.review.loss_weight": 0}},
        {**mtkd, "cfg_options": {**shared, f"{losses}.srd.temperature": 2, "train_cfg.val_interval": 2}, "epochs": 3},
    ]
    (tmp_path / "sweep.py").write_text(f"epochs = 10\nrows = {entries!r}\n")
    rows = read_rows([str(tmp_path / "sweep.py")])
    assert list(rows) == [
        "student_digits",
        "kd",
        "mtkd_ssr",
        "mtkd_ssr without review",
        "mtkd_ssr srd.temperature=2, val_interval=2",
    ]
    assert [(row.train_cfg.max_epochs, row.param_scheduler.T_max) for row in rows.values()] == [(10, 10)] * 4 + [(3, 3)]


def test_a_row_of_a_sweep_file_that_is_not_understood_is_named(tmp_path: Path) -> None:
    for rows, message in (
        ([{"config": STUDENT, "distiler": "kd"}], "rows\\[0\\]: unknown key 'distiler', did you mean 'distiller'"),
        ([{"name": "a"}], "a row needs config="),
        ([{"config": STUDENT}, {"config": STUDENT}], "rows\\[1\\]: there is a row 'student_digits' already"),
        ([{"config": STUDENT, "distiller": "kd"}], "--distiller kd needs --teacher"),
        ([{"config": STUDENT, "distiller": "kd", "teacher_row": "b"}], "rows\\[0\\]: no row 'b' above it"),
        ([{"config": STUDENT}, {"name": "b", "config": STUDENT, "teacher_row": "student_digits"}], "add distiller="),
        ([{"config": STUDENT, "epochs": "2"}], "rows\\[0\\]: epochs='2': give an integer"),
        ([{"config": STUDENT, "cfg_options": ["a=1"]}], "rows\\[0\\]: cfg_options=.* give a dict"),
    ):
        file = tmp_path / "sweep.py"
        file.write_text(f"rows = {rows!r}\n")
        assert_refused(message, read_sweep, [str(file)])
        assert_refused("is a sweep file: other configs", read_sweep, [str(file), STUDENT])
    for text, message in (
        ("row = []", "is no config \\(there is no model\\) and no sweep file"),
        (f"rows = [dict(config={STUDENT!r})]\nmetric = 'accuracy/top5'", "reads 'metric', did you mean 'metrics'"),
    ):
        file.write_text(text)
        assert_refused(message, read_sweep, [str(file)])
    file.write_text(f"rows = [dict(config={STUDENT!r})]\nmetrics = 'accuracy/top5'\nseeds = 1")
    sweep = read_sweep([str(file)])
    assert (sweep.metrics, sweep.seeds) == (("accuracy/top5",), (1,))
