"""mmdet families that need an operator of mmcv train a step and predict on the stand-ins.

`python -m tests.helpers.family_sweep` tries all families at their own widths; docs/detectors.md has its last result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmdet.utils import register_all_modules
from torch import distributed

from ..devices import DEVICES
from ..helpers import detection_samples as samples
from ..helpers import detector_families as families
from ..helpers import family_sweep as sweep

CASES = {
    "carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py": {"carafe_forward", "carafe_backward"},
    "cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py": {"deform_conv_forward", "roi_align_backward"},
    "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py": {"deform_roi_pool_forward", "deform_roi_pool_backward"},
    "dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py": {"deform_roi_pool_forward", "deform_roi_pool_backward"},
    "detectors/cascade-rcnn_r50-sac_1x_coco.py": {"deform_conv_forward", "deform_conv_backward_parameters"},
    "dyhead/atss_r50_fpn_dyhead_1x_coco.py": {"modulated_deform_conv_forward", "modulated_deform_conv_backward"},
    "faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco.py": {"softnms", "roi_align_forward"},
    "guided_anchoring/ga-rpn_r50-caffe_fpn_1x_coco.py": {"deform_conv_forward", "masked_im2col_forward"},
    "pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py": {"nms_match"},
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py": {"nms", "roi_align_forward"},
    "reppoints/reppoints-moment_r50_fpn_1x_coco.py": {"deform_conv_backward_input"},
    "simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-90k_coco.py": {
        "sync_bn_forward_output"
    },
    "tood/tood_r50_fpn_1x_coco.py": {"deform_conv_backward_input"},
    "vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py": {"modulated_deform_conv_backward"},
}


def lighten(model: Any) -> Any:
    """A quarter of the width, narrow fully connected layers, few regions, fewer predictions."""
    for node in samples.nodes(model):
        if str(node.get("type")).endswith("ResNet"):
            node["base_channels"] = 16
        if "in_channels" in node and isinstance(node["in_channels"], (list, tuple)):
            node["in_channels"] = [channels // 4 for channels in node["in_channels"]]
        narrow = {key: 64 for key, value in node.items() if key.endswith("channels") and value == 256}
        node.update(narrow)
        for key, most in (("fc_out_channels", 32), ("deform_fc_channels", 32), ("num", 16), ("max_per_img", 8)):
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
    return model


#: In the default run; `make test-families` runs the others.
SAMPLE = ("carafe", "dcnv2", "tood")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "config",
    [pytest.param(name, marks=() if name.startswith(SAMPLE) else pytest.mark.families) for name in CASES],
)
def test_family_trains_and_predicts(config: str, device: str) -> None:
    register_all_modules(init_default_scope=True)
    model = lighten(families.prepare(families.load(Path(config))))
    data = samples.batch(model)
    with families.called_operators() as called:
        detector = families.build(model, data).to(device)
        families.train(detector, data, steps=1)
        families.predict(detector, data)
    assert CASES[config] <= called


def test_sweep_writes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(config: str, reason: str = "", operators: tuple[str, ...] = ()) -> dict[str, Any]:
        fine = not reason
        return {"config": config, "trains": fine, "predicts": fine, "reason": reason, "operators": operators}

    results, written = tmp_path / "results.json", tmp_path / "detectors.md"
    rows = {
        "atss": [row("atss/a.py", operators=("nms",)), row("atss/b.py", "ValueError: no")],
        "fcos": [row("fcos/a.py", operators=("nms",))],
        "glip": [row("glip/a.py", "RuntimeError: please install it")],
    }
    results.write_text(json.dumps(rows))
    monkeypatch.setattr("sys.argv", ["sweep", "common", "--results", str(results), "--write", str(written)])
    sweep.main()
    text = written.read_text()
    assert "1 of 4 families train" in text
    assert "4 configs represent them" in text
    for line in (
        "| trains | 1 | fcos |",
        "| does not train | 1 | atss |",
        "| needs a package that is not installed here | 1 | glip |",
        "| holds no model, only settings | 1 | common |",
        "* atss/b.py: ValueError: no",
        "| nms | 2 |",
    ):
        assert line in text.splitlines()


def test_sweep_names_the_nearest_family(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["sweep", "dnc"])
    with pytest.raises(SystemExit):
        sweep.main()
    assert "did you mean 'dcn'?" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _destroy_process_group() -> Iterator[None]:
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
