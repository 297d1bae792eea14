"""The channels of the images that a network takes."""

from mmdet.utils import register_all_modules
from mmpretrain.utils import register_all_modules as register_classifiers

from kd_mm.registry import MODELS
from kd_mm.utils.channels import input_channels


def test_of_the_first_convolution() -> None:
    for backbone, channels in (
        ({"type": "mmpretrain.ResNet", "depth": 18, "in_channels": 5}, 5),
        ({"type": "mmpretrain.VisionTransformer", "arch": "deit-tiny", "in_channels": 1}, 1),
        ({"type": "mmpretrain.T2T_ViT", "img_size": 32}, 3),
        ({"type": "mmdet.CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.25}, 3),
        ({"type": "kd_mm.OSNet", "width": 0.25, "in_channels": 2}, 2),
    ):
        register_classifiers(init_default_scope=False)
        register_all_modules(init_default_scope=False)
        assert input_channels(MODELS.build(backbone)) == channels


def test_several_means_come_first() -> None:
    model = {
        "type": "mmpretrain.ImageClassifier",
        "data_preprocessor": {"type": "mmpretrain.ClsDataPreprocessor", "mean": [1.0] * 12, "std": [1.0] * 12},
        "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8, "in_channels": 12},
    }
    assert input_channels(MODELS.build(model)) == 12
