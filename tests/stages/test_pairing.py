"""Pairing of student and teacher stages."""

from kd_mm.stages.stage import Stage, pair_stages

from ..helpers.errors import assert_refused


def stages(side, count):
    return [Stage(k, f"{side}.layer{k}", "map", 8 * k, 64 // 2**k, 64 // 2**k, 2.0**k) for k in range(1, count + 1)]


def taps(pairs):
    return [(int(student.tap[-1]), int(teacher.tap[-1])) for student, teacher in pairs]


def test_pairs_are_counted_anew():
    for students, teachers, align, expected in (
        (4, 4, "from_deep", [(1, 1), (2, 2), (3, 3), (4, 4)]),
        (3, 5, "from_deep", [(1, 3), (2, 4), (3, 5)]),
        (5, 3, "from_deep", [(3, 1), (4, 2), (5, 3)]),
        (3, 5, "from_shallow", [(1, 1), (2, 2), (3, 3)]),
        (5, 3, "from_shallow", [(1, 1), (2, 2), (3, 3)]),
        (3, 5, [(1, 2), (3, 5)], [(1, 2), (3, 5)]),
        (3, 5, [[2, 5]], [(2, 5)]),
    ):
        assert taps(pair_stages(stages("s", students), stages("t", teachers), align)) == expected
    student, teacher = stages("s", 3), stages("t", 5)
    pairs = pair_stages(student, teacher)
    assert [(s.index, t.index) for s, t in pairs] == [(1, 1), (2, 2), (3, 3)]
    assert [t.channels for _, t in pairs] == [24, 32, 40]
    assert [stage.index for stage in teacher] == [1, 2, 3, 4, 5]


def test_bad_pairs_are_one_clear_line():
    for align, message in (
        ("from_dep", "did you mean 'from_deep'"),
        ("sideways", "write 'from_deep'"),
        ([(1, 6)], "the teacher has no stage 6, only 1 to 5"),
        ([(0, 1)], "the student has no stage 0"),
        ([(1, 1), (1, 2)], "student stages .* each once"),
        ([(1, 3), (2, 2)], "teacher stages .* shallow to deep"),
        ([(1, 2, 3)], "is no pair"),
        ([1, 2], "is no pair"),
        ([("1", 2)], "is no pair"),
        ([], "holds no pairs"),
        (3, "holds no pairs"),
    ):
        assert_refused(message, pair_stages, stages("s", 3), stages("t", 5), align)
    assert_refused("teacher has no stages", pair_stages, stages("s", 3), [])
