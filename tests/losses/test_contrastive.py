"""Contrastive distillation against its public code, and its bank of embeddings.

The golden numbers come from RepDistiller, run on the same waves in float64.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import CRDLoss
from kd_mm.losses.crd import noise_contrast
from kd_mm.losses.observation import Observation

from ..helpers.waves import wave
from .test_feature_baselines import SMALL, WIDE, setting

FIRST, SECOND = torch.tensor([3, 8]), torch.tensor([8, 0])
NEGATIVES = torch.tensor([[0, 1, 2, 4, 5, 6], [1, 2, 9, 10, 11, 7]])


def contrastive(samples: int | None = 12, **options: Any) -> CRDLoss:
    """The loss of maps with 3 and 5 channels, with waves for weights and bank."""
    loss = CRDLoss(**{"num_negatives": 6, "dims": 4, "num_samples": samples, **options})
    loss.setup(setting((3, 5)))
    for k, parameter in enumerate(loss.embed.parameters()):
        parameter.data.copy_(wave(*parameter.shape, pace=1.1 + 0.1 * k))
    if samples is not None:
        loss.bank.student.copy_(wave(samples, 4, pace=1.9, size=0.5))
        loss.bank.teacher.copy_(wave(samples, 4, pace=2.3, size=0.5))
    return loss


def observed(indices: Tensor, labels: Tensor, student: Tensor = SMALL) -> tuple[Observation, Observation]:
    ours = Observation(features={1: student.float()}, targets=labels, sample_indices=indices)
    return ours, Observation(pooled={1: WIDE.float().mean((2, 3))})


def embedded(loss: CRDLoss, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    return {
        "student": loss.embedding("student", student.mean((2, 3))),
        "teacher": loss.embedding("teacher", teacher.mean((2, 3))),
    }


def test_two_steps_agree_with_public_code() -> None:
    loss = contrastive().double()
    parts = loss.contrast(embedded(loss, SMALL, WIDE), FIRST, NEGATIVES, FIRST)
    assert float(parts["student"] + parts["teacher"]) == pytest.approx(12.488934770150319, abs=1e-4)
    assert loss.bank.log_normalizers.exp().tolist() == pytest.approx([59.67908156289076, 4396.292720692412])
    parts = loss.contrast(embedded(loss, WIDE[:, :3], WIDE), SECOND, NEGATIVES, SECOND)
    assert float(parts["student"] + parts["teacher"]) == pytest.approx(10.512688215493496, abs=1e-4)
    student = [0.28499731382649274, 0.21918806704503388, 0.7388544388432133, -0.5699361723723331]
    assert loss.bank.student[8].tolist() == pytest.approx(student, abs=1e-6)
    teacher = [0.40705056244778565, 0.8329042626997721, -0.162705406949996, -0.3377976899517323]
    assert loss.bank.teacher[0].tolist() == pytest.approx(teacher, abs=1e-6)


@pytest.mark.parametrize("samples", [12, 40])
def test_scores_are_products_with_the_picked_rows(samples: int) -> None:
    """Small banks are multiplied whole, of large ones the rows are picked."""
    bank, embedding = contrastive(samples).double().bank, wave(2, 4)
    picks = torch.cat([FIRST[:, None], NEGATIVES], dim=1)
    expected = torch.einsum("bpd,bd->bp", bank.student[picks], embedding)
    torch.testing.assert_close(bank.scores("student", embedding, picks), expected)


def test_noise_contrast_by_numpy() -> None:
    scores = wave(3, 5, pace=1.3)
    p, noise = np.exp(scores.numpy()), 4 / 20
    expected = -np.log(p[:, 0] / (p[:, 0] + noise)) - np.log(noise / (p[:, 1:] + noise)).sum(axis=1)
    assert float(noise_contrast(scores, 20)) == pytest.approx(expected.mean(), abs=1e-12)


def test_negatives_are_of_other_classes_and_all_of_them_are_drawn() -> None:
    bank = contrastive().bank
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    bank.set_classes(torch.arange(10), labels)
    drawn = bank.draw(torch.tensor([0, 2, 3]), 4000)
    for row, label in zip(drawn, (0, 2, 3), strict=True):
        expected = {i for i in range(12) if i > 9 or int(labels[i]) != label}  # 10 and 11 have not been seen
        counts = torch.bincount(row, minlength=12)
        assert {i for i in range(12) if counts[i]} == expected
        assert counts[sorted(expected)].min() > 0.75 * 4000 / len(expected)
    bank.set_classes(torch.arange(12), torch.zeros(12, dtype=torch.long))
    assert int(bank.draw(torch.zeros(2, dtype=torch.long), 5).max()) < 12


def test_bank_follows_the_samples_that_were_seen() -> None:
    loss = contrastive()
    before = loss.bank.student.clone()
    loss(*observed(FIRST, torch.tensor([1, 2])))
    seen = torch.zeros(12, dtype=torch.bool)
    seen[FIRST] = True
    assert torch.equal(loss.bank.student[~seen], before[~seen])
    assert loss.bank.labels[FIRST].tolist() == [1, 2]
    assert int((loss.bank.labels < 0).sum()) == 10
    embedding = loss.embedding("student", SMALL.float().mean((2, 3)))
    expected = torch.nn.functional.normalize(0.5 * before[FIRST] + 0.5 * embedding, dim=1)
    torch.testing.assert_close(loss.bank.student[FIRST], expected)


def test_soft_labels_count_as_their_largest_class() -> None:
    loss = contrastive()
    loss(*observed(FIRST, torch.tensor([[0.2, 0.8], [0.6, 0.4]])))
    assert loss.bank.labels[FIRST].tolist() == [1, 0]


def test_a_resumed_bank_goes_on_exactly() -> None:
    def steps(loss: CRDLoss, *moments: int) -> list[float]:
        values = []
        for k in moments:
            torch.manual_seed(k)
            values.append(float(loss(*observed((FIRST + k) % 12, torch.tensor([k % 3, 1])))))
        return values

    whole, interrupted = contrastive(), contrastive()
    expected = steps(whole, 0, 1, 2, 3)
    assert steps(interrupted, 0, 1) == expected[:2]
    state = interrupted.state_dict()
    for samples in (12, None):  # a run that knows how many samples there are, and an evaluation that does not
        resumed = contrastive(samples)
        resumed.load_state_dict(state)
        assert steps(resumed, 2, 3) == expected[2:]
        assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_a_bank_of_other_data_starts_anew() -> None:
    loss = contrastive(20)
    before = loss.bank.teacher.clone()
    loss.load_state_dict(contrastive(12).state_dict())
    assert torch.equal(loss.bank.teacher, before)


def test_the_training_data_says_how_large_the_bank_is() -> None:
    loss = contrastive(None)
    with pytest.raises(ValueError, match="number of training samples is not known"):
        loss(*observed(FIRST, torch.tensor([1, 2])))
    loss.expect_samples(9)
    assert len(loss.bank) == 9
    assert float(loss.bank.student.abs().max()) <= (3 / 4) ** 0.5
    assert torch.isfinite(loss(*observed(FIRST, torch.tensor([1, 2]))))
    with pytest.raises(ValueError, match="sample_idx 9, but the bank is of 9 samples"):
        loss(*observed(FIRST + 1, torch.tensor([1, 2])))
    given = contrastive(12)
    given.expect_samples(9)
    assert len(given.bank) == 12


def test_wrong_options_are_named() -> None:
    for options, message in (
        ({"temperature": 0}, "temperature=0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"stages": [1, 2]}, r"stages=\[1, 2\]; name one"),
    ):
        with pytest.raises(ValueError, match=message):
            CRDLoss(**options)


def test_slopes_and_gradients() -> None:
    loss = contrastive().double()
    loss.bank.fix_normalizers({side: torch.zeros(2, 7, dtype=torch.float64) for side in ("student", "teacher")})
    bank = {name: value.clone() for name, value in loss.bank.named_buffers()}

    def value(student: Tensor) -> Tensor:
        loss.bank.load_state_dict(bank)
        parts = loss.contrast(embedded(loss, student, WIDE), FIRST, NEGATIVES, FIRST)
        return parts["student"] + parts["teacher"]

    assert gradcheck(value, (SMALL.clone().requires_grad_(),))
    teacher = WIDE.float().requires_grad_()
    student = SMALL.float().requires_grad_()
    loss = contrastive()
    ours, _ = observed(FIRST, torch.tensor([1, 2]), student)
    loss(ours, Observation(pooled={1: teacher.mean((2, 3))})).backward()
    assert student.grad.any()
    assert teacher.grad is None
    assert all(parameter.grad.any() for parameter in loss.parameters())


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4, 1e12])
@pytest.mark.parametrize("temperature", [0.07, 1e-3])
def test_extreme_values_in_bf16_stay_finite(size: float, temperature: float) -> None:
    loss = contrastive(temperature=temperature)
    student = (size * SMALL).bfloat16().requires_grad_()
    ours = Observation(features={1: student}, targets=torch.tensor([1, 2]), sample_indices=FIRST)
    for _ in range(2):
        value = loss(ours, Observation(pooled={1: (-size * WIDE).bfloat16().mean((2, 3))}))
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


def _half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    loss = contrastive()
    for k in range(2):
        one = slice(rank, rank + 1)
        ours = Observation(
            features={1: SMALL.float()[one]}, targets=torch.tensor([1, 2])[one], sample_indices=((FIRST + k) % 12)[one]
        )
        loss(ours, Observation(pooled={1: WIDE.float()[one].mean((2, 3))}))
    torch.save(loss.bank.state_dict(), f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_have_one_bank(tmp_path: Path) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_half, args=(i, str(tmp_path))) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f"{i}.pth") for i in range(2))
    alone = contrastive()
    for k in range(2):
        alone(*observed((FIRST + k) % 12, torch.tensor([1, 2])))
    for name, value in first.items():
        assert torch.equal(value, second[name])
        if name != "log_normalizers":  # Z is of the negatives, and each process draws its own
            torch.testing.assert_close(value, alone.bank.state_dict()[name])
