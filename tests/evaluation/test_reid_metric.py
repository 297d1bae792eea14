"""The registered metric of re-identification, as mmengine's evaluator runs it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmpretrain.structures import DataSample

import kd_mm  # noqa: F401 - registers everything
from kd_mm.evaluation import ReIDMetric, evaluate_reid
from tests.devices import DEVICES
from tests.helpers.processes import evaluate_share, in_group
from tests.helpers.reid_reference import random_images, reference_of

from ..helpers.errors import assert_refused

MEASURES = ["reid/mAP", "reid/mAP_trapz", "reid/mINP", "reid/Rank-1", "reid/Rank-5", "reid/Rank-10"]
COUNTS = ["reid/queries", "reid/gallery", "reid/junk", "reid/distractors"]


def samples(images: dict[str, Any], device: str = "cpu") -> list[DataSample]:
    """Return what a network leaves of the images: the queries, then the gallery."""
    found: list[DataSample] = []
    for role in ("query", "gallery"):
        features = torch.from_numpy(images[f"{role}_features"]).float().to(device)
        for feature, pid, camid in zip(features, images[f"{role}_pids"], images[f"{role}_camids"], strict=True):
            meta = {"pid": int(pid), "camid": int(camid), "role": role, "sample_idx": len(found)}
            sample = DataSample(metainfo={**meta, "img_path": f"{role}/{len(found):03d}.jpg"})
            found.append(sample.set_field(feature, "feature") or sample)
    return found


def evaluate(given: list[Any], size: int | None = None, meta: Any = None, **options: Any) -> dict[str, float]:
    evaluator = Evaluator([{"type": "kd_mm.ReIDMetric", **options}])
    evaluator.dataset_meta = meta
    for start in range(0, len(given), 7):
        evaluator.process(given[start : start + 7])
    return evaluator.evaluate(len(given) if size is None else size)


def single(images: dict[str, Any]) -> dict[str, Any]:
    """Return the features as the metric sees them."""
    return {name: value.astype(np.float32) if name.endswith("features") else value for name, value in images.items()}


@pytest.mark.parametrize("device", DEVICES)
def test_measures_in_percent_and_counts(device: str, messages: list[str]) -> None:
    images = random_images(0)
    metrics = evaluate(samples(images, device), meta={"dataset": "people", "num_junk": 100})
    assert list(metrics) == MEASURES + COUNTS
    expected = reference_of(single(images))
    values = [expected["mAP"], expected["mAP_trapz"], expected["mINP"], *expected["cmc"][[0, 4, 9]]]
    np.testing.assert_allclose([metrics[key] for key in MEASURES], 100 * np.array(values), atol=1e-10)
    junk, distractors = ((images["gallery_pids"] == pid).sum() for pid in (-1, 0))
    assert [metrics[key] for key in COUNTS] == [30, 90 - junk, junk + 100, distractors]
    assert messages[-1] == (
        f"Re-ID on people: 30 queries (29 valid), {90 - junk} gallery images ({distractors} distractors among them), "
        f"{junk + 100} junk left out; cosine distance, camera rule on, no re-ranking"
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_options_are_those_of_the_function(metric: str, messages: list[str]) -> None:
    images = random_images(1)
    rerank = {"k1": 6, "k2": 2}
    metrics = evaluate(samples(images), metric=metric, rerank=rerank, max_rank=20)
    found = evaluate_reid(**single(images), metric=metric, rerank=rerank)
    plain = evaluate_reid(**single(images), metric=metric)
    assert metrics["reid/mAP"] == 100 * found["mAP"]
    assert metrics["reid/plain_mAP"] == 100 * plain["mAP"]
    assert metrics["reid/plain_Rank-1"] == 100 * plain["cmc"][0]
    assert [line for line in messages if line.endswith("re-ranked with {'k1': 6, 'k2': 2, 'lambda_value': 0.3}")]


def test_without_cameras(messages: list[str]) -> None:
    """Retrieval of classes counted from 0: there are no distractors."""
    images = random_images(2)
    images["query_pids"][:5] = 0
    given = samples(images)
    for sample in given:
        del sample.camid
    metrics = evaluate(given, camera_rule=False)
    expected = evaluate_reid(**{**single(images), "query_camids": None, "gallery_camids": None})
    assert metrics["reid/mAP"] == 100 * expected["mAP"]
    assert metrics["reid/distractors"] == 0
    assert "camera rule off" in messages[-1]
    assert_refused(r"query/000.jpg: no camid in the data sample: .*camera_rule=False measures w", evaluate, given)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_in_low_precision_that_carry_gradients(device: str, dtype: torch.dtype) -> None:
    given = samples(random_images(4), device)
    for sample in given:
        sample.set_field(sample.feature.to(dtype).requires_grad_(), "feature")
    metrics = evaluate(given)
    rounded = [sample.feature.detach().float().cpu().numpy() for sample in given]
    images = {**random_images(4), "query_features": np.stack(rounded[:30]), "gallery_features": np.stack(rounded[30:])}
    assert metrics["reid/mAP"] == 100 * evaluate_reid(**images)["mAP"]


def test_warns_where_images_are_missing(messages: list[str]) -> None:
    evaluate(samples(random_images(5))[:110], size=120)
    assert (
        "110 images were evaluated, but the test data set has 120: the measures are not those of the data set"
        in messages
    )


def changed(index: int, **values: Any) -> list[DataSample]:
    given = samples(random_images(0))
    for name, value in values.items():
        if value is None:
            delattr(given[index], name)
        elif isinstance(value, torch.Tensor):
            given[index].set_field(value, name)
        else:
            given[index].set_metainfo({name: value})
    return given


def test_wrong_input_raises_one_line() -> None:
    for given, message in (
        (
            changed(4, feature=None),
            "image query/004.jpg: no feature in the data sample: give the model a kd_mm.BNNeckH",
        ),
        (
            changed(4, pid=None),
            "image query/004.jpg: no pid in the data sample: add 'pid' to meta_keys of PackInputs in",
        ),
        (changed(4, role=None), "image query/004.jpg: no role in the data sample: add 'role' to meta_keys"),
        (changed(4, role="probe"), "image query/004.jpg: role='probe': write 'query' or 'gallery'"),
        (
            changed(4, feature=torch.zeros(3)),
            r"features have the shapes \[\(3,\), \(12,\)\]: every image needs one vec",
        ),
        (changed(28, feature=torch.zeros(2, 3)), r"features have the shapes \[\(2, 3\), \(12,\)\]"),
        (
            samples(random_images(0))[:30],
            "no image of role 'gallery' was evaluated: the test data set needs queries and",
        ),
        (samples(random_images(0))[30:], "no image of role 'query' was evaluated"),
        ([], "no image of role 'query' was evaluated"),
    ):
        assert_refused(message, evaluate, given)
    given = samples(random_images(0))
    for sample in given[-7:]:
        sample.set_field(torch.ones(5), "feature")
    with pytest.raises(ValueError, match=r"features of the gallery have the lengths \[5, 12\]: all must be the same"):
        evaluate(given[:112] + given[-7:])
    for options, message in (
        ({"metric": "cosin"}, "metric='cosin' is unknown; .*; did you mean 'cosine'"),
        ({"max_rank": 5}, "ReIDMetric: max_rank=5: give at least 10: Rank-10 is logged"),
        ({"rerank": {"k": 5}}, r"rerank has no option 'k', did you mean 'k"),
    ):
        assert_refused(message, ReIDMetric, **options)


def shot(pid: Any, camid: Any, role: str) -> dict[str, Any]:
    return {"pid": pid, "camid": camid, "role": role, "img_path": f"{role}.jpg"}


def test_a_query_and_its_match_are_found_in_the_data() -> None:
    data = [
        shot(3, 1, "query"),
        shot(5, 2, "query"),
        shot(3, 1, "gallery"),
        shot(5, 2, "gallery"),
        shot(5, 1, "gallery"),
    ]
    assert ReIDMetric().check_data(data) == [1, 4]
    assert ReIDMetric(camera_rule=False).check_data(data) == [0, 2]
    assert ReIDMetric().check_data([{"pid": 3, "img_path": "a.jpg"}]) == []  # roles come from the pipeline


def test_data_that_can_never_be_evaluated() -> None:
    for gallery, options, message in (
        (
            shot(3, 1, "gallery"),
            {},
            "only images from its own, which are left out: camera_rule=False measures with these",
        ),
        (
            shot(4, 2, "gallery"),
            {},
            "gallery of one data set, and are the camera ids right. .camera_rule=False measures",
        ),
        (shot(4, 1, "gallery"), {"camera_rule": False}, "has an image of its person in the gallery: are query and"),
        (shot("ann", 2, "gallery"), {}, "image gallery.jpg: pid='ann' is no integer of 64 bits: number identities"),
        (shot(2**63, 2, "gallery"), {}, "pid=9223372036854775808 is no integer of 64 bits"),
        (shot(3, "left", "gallery"), {}, "camid='left' is no integer of 64 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            ReIDMetric(**options).check_data([shot(3, 1, "query"), gallery])


def _share(rank: int, folder: Path) -> dict[str, float]:
    given = samples(random_images(7, gallery=91))
    metric = ReIDMetric(collect_dir=str(folder / "parts"))
    return evaluate_share(metric, given, 41)


def test_three_processes_equal_one(tmp_path: Path) -> None:
    """121 images over three processes: two are evaluated twice, to fill the shares, and count once."""
    assert in_group(3, _share, tmp_path, tmp_path) == [evaluate(samples(random_images(7, gallery=91)))] * 3
