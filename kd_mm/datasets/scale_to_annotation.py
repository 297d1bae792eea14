"""A pipeline step for images that were resized after their annotations were made."""

from typing import Any

import mmcv
from mmcv.transforms import BaseTransform

from kd_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ScaleToAnnotation(BaseTransform):
    """Scale an image to the width and height that its annotations say, so that boxes, masks and scores fit it.

    It follows the loading step; ``size_mismatch="rescale"`` at the top of a config puts it there. An image without such
    numbers, or of this size, stays as it is.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Scale ``img`` ``(H, W, C)`` to ``(height, width, C)``; ``img_shape`` and ``ori_shape`` follow."""
        width, height = results.get("width"), results.get("height")
        if width and height and results["img"].shape[:2] != (height, width):
            results["img"] = mmcv.imresize(results["img"], (width, height))
            results["img_shape"] = results["ori_shape"] = (height, width)
        return results
