"""CRD and its bank of embeddings. Public values: RepDistiller, float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kd_mm.losses import CRDLoss, Observation

from ..helpers.errors import assert_refused
from ..helpers.losses import crd, of_maps
from ..helpers.processes import in_group
from ..helpers.waves import wave
from .test_maps import SMALL, WIDE

FIRST, SECOND = torch.tensor([3, 8]), torch.tensor([8, 0])
NEGATIVES = torch.tensor([[0, 1, 2, 4, 5, 6], [1, 2, 9, 10, 11, 7]])


def observed(indices: Tensor, labels: Tensor, part: slice = slice(None)) -> tuple[Observation, Observation]:
    student, teacher = SMALL.float()[part], WIDE.float()[part]
    return of_maps(student, teacher, targets=labels[part], sample_indices=indices[part])


def embeddings(loss: CRDLoss, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    maps = {"student": student, "teacher": teacher}
    return {side: loss.embedding(side, feature.mean((2, 3))) for side, feature in maps.items()}


def test_two_steps_agree_with_public_code() -> None:
    loss = crd().double()
    terms = loss.contrast(embeddings(loss, SMALL, WIDE), FIRST, NEGATIVES, FIRST)
    assert float(terms["student"] + terms["teacher"]) == pytest.approx(12.488934770150319, abs=1e-4)
    assert loss.bank.log_normalizers.exp().tolist() == pytest.approx([59.67908156289076, 4396.292720692412])
    terms = loss.contrast(embeddings(loss, WIDE[:, :3], WIDE), SECOND, NEGATIVES, SECOND)
    assert float(terms["student"] + terms["teacher"]) == pytest.approx(10.512688215493496, abs=1e-4)
    student = [0.28499731382649274, 0.21918806704503388, 0.7388544388432133, -0.5699361723723331]
    assert loss.bank.student[8].tolist() == pytest.approx(student, abs=1e-6)
    teacher = [0.40705056244778565, 0.8329042626997721, -0.162705406949996, -0.3377976899517323]
    assert loss.bank.teacher[0].tolist() == pytest.approx(teacher, abs=1e-6)


def test_scores_are_products_with_the_picked_rows() -> None:
    """A small bank is multiplied with all rows, of a large one the rows are picked."""
    for samples in (12, 40):
        bank, embedding = crd(samples).double().bank, wave(2, 4)
        picks = torch.cat([FIRST[:, None], NEGATIVES], dim=1)
        expected = torch.einsum("bpd,bd->bp", bank.student[picks], embedding)
        torch.testing.assert_close(bank.scores("student", embedding, picks), expected)


def test_negatives_are_of_other_classes_and_all_of_them_are_drawn() -> None:
    bank = crd().bank
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    bank.set_classes(torch.arange(10), labels)
    drawn = bank.draw(torch.tensor([0, 2, 3]), 4000)
    for row, label in zip(drawn, (0, 2, 3), strict=True):
        expected = {i for i in range(12) if i > 9 or int(labels[i]) != label}  # the classes of 10 and 11 are unknown
        counts = torch.bincount(row, minlength=12)
        assert {i for i in range(12) if counts[i]} == expected
        assert counts[sorted(expected)].min() > 0.75 * 4000 / len(expected)
    bank.set_classes(torch.arange(12), torch.zeros(12, dtype=torch.long))
    assert int(bank.draw(torch.zeros(2, dtype=torch.long), 5).max()) < 12


def test_a_step_updates_the_samples_of_the_batch() -> None:
    loss = crd()
    before = loss.bank.student.clone()
    loss(*observed(FIRST, torch.tensor([[0.2, 0.8, 0.0], [0.1, 0.4, 0.5]])))  # soft labels count as their largest class
    others = torch.ones(12, dtype=torch.bool)
    others[FIRST] = False
    assert torch.equal(loss.bank.student[others], before[others])
    assert loss.bank.labels[FIRST].tolist() == [1, 2]
    assert int((loss.bank.labels < 0).sum()) == 10
    embedding = loss.embedding("student", SMALL.float().mean((2, 3)))
    expected = torch.nn.functional.normalize(0.5 * before[FIRST] + 0.5 * embedding, dim=1)
    torch.testing.assert_close(loss.bank.student[FIRST], expected)


def test_a_resumed_bank_continues_exactly() -> None:
    def steps(loss: CRDLoss, *numbers: int) -> list[float]:
        values = []
        for k in numbers:
            torch.manual_seed(k)
            values.append(float(loss(*observed((FIRST + k) % 12, torch.tensor([k % 3, 1])))))
        return values

    through, interrupted = crd(), crd()
    expected = steps(through, 0, 1, 2, 3)
    assert steps(interrupted, 0, 1) == expected[:2]
    state = interrupted.state_dict()
    for samples in (12, None):  # a run with a known number of samples, and an evaluation without
        resumed = crd(samples)
        resumed.load_state_dict(state)
        assert steps(resumed, 2, 3) == expected[2:]
        assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in through.state_dict().items())


def test_the_training_data_set_the_size_of_the_bank_and_a_bank_of_others_starts_again() -> None:
    loss = crd(None)
    assert_refused("number of training samples is not known", loss, *observed(FIRST, torch.tensor([1, 2])))
    loss.expect_samples(9)
    assert len(loss.bank) == 9
    assert float(loss.bank.student.abs().max()) <= (3 / 4) ** 0.5
    assert torch.isfinite(loss(*observed(FIRST, torch.tensor([1, 2]))))
    assert_refused("sample_idx 9, but the bank is of 9 samples", loss, *observed(FIRST + 1, torch.tensor([1, 2])))
    given = crd(12)
    given.expect_samples(9)
    assert len(given.bank) == 12
    loss = crd(20)
    before = loss.bank.teacher.clone()
    loss.load_state_dict(crd(12).state_dict())
    assert torch.equal(loss.bank.teacher, before)


def test_a_small_temperature_stays_finite() -> None:
    loss, student = crd(temperature=1e-3), (1e4 * SMALL).bfloat16().requires_grad_()
    for _ in range(2):
        value = loss(*of_maps(student, -WIDE.bfloat16(), targets=torch.tensor([1, 2]), sample_indices=FIRST))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


def _half(rank: int) -> dict[str, Tensor]:
    loss = crd()
    for k in range(2):
        loss(*observed((FIRST + k) % 12, torch.tensor([1, 2]), slice(rank, rank + 1)))
    return loss.bank.state_dict()


def test_two_processes_have_one_bank(tmp_path: Path) -> None:
    first, second = in_group(2, _half, tmp_path)
    alone = crd()
    for k in range(2):
        alone(*observed((FIRST + k) % 12, torch.tensor([1, 2])))
    for name, value in first.items():
        assert torch.equal(value, second[name])
        if name != "log_normalizers":  # Z is of the negatives, and each process draws its own
            torch.testing.assert_close(value, alone.bank.state_dict()[name])
