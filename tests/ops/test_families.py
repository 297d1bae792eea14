"""mmdet families that need an operator of mmcv train a step and predict on the stand-ins.

`make test-families` tries all families at their own widths; docs/detectors.md has the result.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from mmdet.utils import register_all_modules

from ..devices import DEVICES
from ..helpers import detection_samples as samples
from ..helpers import detector_families as families

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


#: In the default run; `make test-families` runs the others.
SAMPLE = ("carafe", "dcnv2", "tood")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "config",
    [pytest.param(name, marks=() if name.startswith(SAMPLE) else pytest.mark.families) for name in CASES],
)
def test_family_trains_and_predicts(config: str, device: str) -> None:
    register_all_modules(init_default_scope=True)
    model = families.lighten(families.prepare(families.load(Path(config))))
    data = samples.batch(model)
    with families.called_operators() as called:
        detector = families.build(model, data).to(device)
        families.train(detector, data, steps=1)
        families.predict(detector, data)
    assert CASES[config] <= called


#: Families that cannot be trained here, and what their error says.
UNTRAINED = {
    "deepsort": "Please train",
    "glip": "transformers is not installed",
    "grounding_dino": "fairscale",
    "misc": "install Detectron2",
    "mm_grounding_dino": "fairscale",
    "ocsort": "lap is not installed",
    "queryinst": "upper bound and lower bound",  # it trains, but does not predict
    "timm_example": "requires timm",
}


@pytest.mark.families
@pytest.mark.parametrize("family", families.names())
def test_every_family_trains_at_its_own_widths(family: str) -> None:
    """Two steps on two images, then a prediction where the model takes single images."""
    register_all_modules(init_default_scope=True)
    for path in families.representatives(family):
        expected = pytest.raises(Exception, match=UNTRAINED[family]) if family in UNTRAINED else nullcontext()
        with expected:
            model = families.prepare(families.load(path))
            data = samples.batch(model)
            detector = families.build(model, data)
            families.train(detector, data)
            if samples.takes_images(data):
                families.predict(detector, data)
