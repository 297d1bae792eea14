"""Batches of P identities with K images each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from kd_mm.datasets import IdentitySampler
from kd_mm.datasets.identity_sampler import check_identity_batches
from kd_mm.registry import DATA_SAMPLERS

from ..helpers.errors import assert_refused
from ..helpers.processes import in_group


class People(Dataset):
    """A data set with an identity for each image."""

    def __init__(self, counts: list[int]) -> None:
        self.labels = [label for label, count in enumerate(counts) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.labels)

    def get_data_info(self, index: int) -> dict[str, int]:
        return {"gt_label": self.labels[index]}

    def __getitem__(self, index: int) -> int:
        return index


def batches(sampler: IdentitySampler, size: int) -> list[list[int]]:
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def test_each_batch_has_p_identities_with_k_images() -> None:
    people = People([9, 4, 5, 17, 6, 4, 8, 12, 4, 7, 10])
    sampler = IdentitySampler(people, num_identities=4, num_images=3, seed=1)
    found = batches(sampler, 12)
    assert len(found) == len(people) // 12 == 7
    for batch in found:
        assert sorted(Counter(people.labels[i] for i in batch).values()) == [3] * 4
        assert len(set(batch)) == 12
    times = Counter(people.labels[i] for batch in found for i in batch)
    assert set(times.values()) == {6, 9}  # 28 groups over 11 identities: each comes two or three times


def test_images_of_an_identity_are_drawn_without_replacement() -> None:
    people = People([5, 5])
    drawn = [i for i in IdentitySampler(people, num_identities=2, num_images=2, seed=0) if i < 5]
    assert len(drawn) == 4
    assert len(set(drawn)) == 4
    many = People([3] * 2 + [500])
    drawn = [i for i in IdentitySampler(many, num_identities=3, num_images=2, seed=0) if i < 3]
    counts = Counter(drawn)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_identities_of_few_images_repeat_some(warnings: list[str]) -> None:
    people = People([1, 2, 8, 8])
    for batch in batches(IdentitySampler(people, num_identities=4, num_images=4, seed=3), 16):
        groups = [batch[i : i + 4] for i in range(0, 16, 4)]
        drawn = {people.labels[group[0]]: Counter(group) for group in groups}
        assert drawn[0] == {0: 4}
        assert set(drawn[1]) == {1, 2}
        assert len(drawn[2]) == len(drawn[3]) == 4
    assert warnings == []  # half of them
    sampler = IdentitySampler(People([1, 1, 1]), num_identities=3, num_images=4)
    assert len(sampler) == 12
    assert Counter(sampler) == {0: 4, 1: 4, 2: 4}
    words = "IdentitySampler: num_images=4: 3 of 3 identities have fewer images, which repeat in a batch"
    assert warnings == [words]


def test_order_depends_on_seed_and_epoch() -> None:
    people = People([6] * 10)
    one, other = (IdentitySampler(people, 4, 2, seed=5) for _ in range(2))
    state = torch.get_rng_state()
    first = list(one)
    assert torch.equal(state, torch.get_rng_state())
    assert first == list(one)
    one.set_epoch(3)
    assert first != list(one)
    torch.rand(7)
    other.set_epoch(3)
    assert list(one) == list(other)
    assert list(IdentitySampler(people, 4, 2, seed=6)) != first


def test_wrong_numbers_and_batch_sizes() -> None:
    with pytest.raises(ValueError, match="has 3 identities, a batch wants 16: set num_identities to at most 3"):
        IdentitySampler(People([4, 4, 4]))
    for wrong in ((1, 4), (2, 0), (2.5, 4)):
        assert_refused("a batch needs two identities or more, with an image", IdentitySampler, People([4, 4]), *wrong)

    def config(size: int | None, name: Any = "kd_mm.IdentitySampler", **options: int) -> dict[str, Any]:
        return {"train_dataloader": {"batch_size": size, "sampler": {"type": name, **options}}}

    check_identity_batches(config(64))
    check_identity_batches(config(6, num_identities=3, num_images=2))
    for name in ("kd_mm.IdentitySampler", "IdentitySampler", IdentitySampler):
        with pytest.raises(ValueError, match="batch_size=32, but .* 16 identities x 4 images: set batch_size=64"):
            check_identity_batches(config(32, name))
    with pytest.raises(ValueError, match="batch_size=64, but .* 16 identities x 8 images: set batch_size=128"):
        check_identity_batches(config(64, num_images=8))
    for other in ({}, {"train_dataloader": None}, {"train_dataloader": {"sampler": {"type": "DefaultSampler"}}}):
        check_identity_batches(other)


def test_registered_sampler_feeds_a_loader() -> None:
    people = People([4] * 6)
    config = {"type": "kd_mm.IdentitySampler", "num_identities": 3, "num_images": 2}
    sampler = DATA_SAMPLERS.build(config, default_args={"dataset": people, "seed": 2})
    loader = DataLoader(people, batch_size=6, sampler=sampler, drop_last=True)
    assert [batch.tolist() for batch in loader] == batches(sampler, 6)


def _rank(rank: int) -> tuple[int, list[list[int]]]:
    sampler = IdentitySampler(People([5] * 8), num_identities=4, num_images=2)
    sampler.set_epoch(1)
    return sampler.seed, batches(sampler, 8)


def test_two_processes_divide_the_batches(tmp_path: Path) -> None:
    (seed, own), (other_seed, other) = in_group(2, _rank, tmp_path)
    assert seed == other_seed
    assert len(own) == len(other) == 40 // 16
    people = People([5] * 8)
    for pair in zip(own, other, strict=True):
        # Eight identities and two processes with four each: together every identity once.
        assert {people.labels[i] for batch in pair for i in batch} == set(range(8))
    single = IdentitySampler(people, 4, 2, seed=seed)
    single.set_epoch(1)
    assert [batch for pair in zip(own, other, strict=True) for batch in pair] == batches(single, 8)[:4]
