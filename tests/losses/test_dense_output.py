"""Outputs of dense heads, and the boxes that they mean."""

import torch

from kd_mm.losses.dense_output import decode_boxes

from ..helpers.dense_heads import SHAPE, STRIDES, Detector


def test_boxes_by_hand() -> None:
    sizes = [(SHAPE[0] // stride, SHAPE[1] // stride) for stride in STRIDES]
    cells = sum(h * w for h, w in sizes)
    retina = Detector("RetinaHead").bbox_head
    anchors = torch.cat(retina.prior_generator.grid_priors(sizes, device="cpu"))
    boxes = decode_boxes(retina, sizes, torch.zeros(2, 9 * cells, 4))
    torch.testing.assert_close(boxes, anchors.expand(2, -1, -1))
    # Every side one cell of the first level away from the first point, (4, 4).
    point, fcos = torch.tensor([-4.0, -4.0, 12.0, 12.0]), Detector("FCOSHead").bbox_head
    boxes = decode_boxes(fcos.eval(), sizes, torch.full((1, cells, 4), 8.0, dtype=torch.bfloat16))
    torch.testing.assert_close(boxes[0, 0], point)
    # In training that head gives distances in strides.
    torch.testing.assert_close(decode_boxes(fcos.train(), sizes, torch.ones(1, cells, 4))[0, 0], point)
    # Equal bins 0..5 mean 2.5 strides; the first anchor's centre is (0, 0), the last level's stride is 32.
    gfl = decode_boxes(Detector("GFLHead").bbox_head, sizes, torch.zeros(1, cells, 24))
    torch.testing.assert_close(gfl[0, 0], torch.tensor([-20.0, -20.0, 20.0, 20.0]))
    torch.testing.assert_close(gfl[0, -1], torch.tensor([64.0 - 80, 32.0 - 80, 64.0 + 80, 32.0 + 80]))
