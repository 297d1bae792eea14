"""Stage tables and pairing as tools/stages.py prints them, without any checkpoint."""

from pathlib import Path

import pytest
from mmengine.config import Config

from kd_mm.apis.stages import config_input_size, module_sections, stage_sections
from kd_mm.utils.config import load_config

from ..helpers.tools import Tools

ROOT = Path(__file__).parents[2]
CIFAR = "classification/cifar100"


def distilled(recipe: str, teacher: str = f"kd_mm::{CIFAR}/resnet20_1xb64_cifar100.py") -> Config:
    text = f"""
_base_ = ["{ROOT}/configs/{CIFAR}/resnet8_1xb64_cifar100.py", "{ROOT}/configs/_base_/recipes/{recipe}.py"]
model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{{{_base_.model}}}},
    teacher=dict(config="{teacher}", checkpoint="no/such/file.pth"),
    recipe={{{{_base_.{recipe}}}}},
)
"""
    return Config.fromstring(text, ".py")


def test_the_tool_prints_student_teacher_and_pairing_without_the_teachers_file(tools: Tools, tmp_path: Path) -> None:
    config = tmp_path / "distilled.py"
    distilled("mtkd_ssr").dump(config)
    done = tools.succeeds("stages", config)
    student, teacher, pairing = done.out[done.out.index("student:") :].split("\n\n")
    assert student.startswith("student: ImageClassifier with CIFARResNet, 83,892 parameters, input 3 x 32 x 32")
    assert "backbone.layer3  map     64 x 8 x 8" in student
    assert teacher.startswith("teacher 'teacher': ImageClassifier with CIFARResNet")
    lines = pairing.strip().splitlines()
    assert lines[0] == "pairing with teacher 'teacher' (from_deep)"
    for number, line in enumerate(lines[3:], 1):
        assert line.split()[0] == str(number)
        assert line.count(f"backbone.layer{number}") == 2
    assert len(lines) == 6


def test_pairs_from_the_deep_end_or_none() -> None:
    assert "no loss reads the stages of teacher 'teacher'" in list(stage_sections(distilled("kd")))[-1]
    config = distilled("mtkd_ssr", f"kd_mm::{CIFAR}/resnet8x4_1xb64_cifar100.py")
    config.model.stages = {"student": ["backbone.layer2", "backbone.layer3"]}
    *_, pairing = stage_sections(config)
    assert [line.split()[1] for line in pairing.splitlines()[3:]] == ["backbone.layer2", "backbone.layer3"]
    assert "128 x 16 x 16" in pairing.splitlines()[3]


def test_a_plain_config_has_one_table_at_the_size_that_was_asked_for() -> None:
    config = load_config("mmpretrain::resnet/resnet18_8xb32_in1k.py")
    (section,) = stage_sections(config, (64, 96))
    assert "network: ImageClassifier with ResNet, 11,689,512 parameters, input 3 x 64 x 96" in section
    assert "backbone.layer4  map     512 x 2 x 3" in section


def test_a_wrong_stage_name_shows_the_nearest_and_the_table() -> None:
    config = distilled("mtkd_ssr")
    config.model.stages = {"student": ["backbone.layer2", "backbone.layr3"]}
    with pytest.raises(ValueError, match=r"(?s)backbone\.layr3.*did you mean.*backbone\.layer3.*64 x 8 x 8"):
        list(stage_sections(config))


def test_a_network_of_other_channels_than_its_mean_or_none() -> None:
    config = distilled("kd")
    config.model.student.backbone.in_channels = 2
    with pytest.raises(ValueError, match="the first layer of a network takes 2 channels, the mean of its data_prep"):
        list(stage_sections(config))
    with pytest.raises(ValueError, match="config: there is no model"):
        list(stage_sections(Config()))


def test_all_modules_are_listed_with_calls_and_outputs() -> None:
    student, teacher = module_sections(distilled("kd"))
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in student.splitlines()[3:]}
    assert rows["head.fc"] == ["Linear", "1", "(B, 100)"]
    assert rows["backbone.layer2.0.conv1"] == ["Conv2d", "1", "(B, 32, 16, 16)"]
    assert rows["backbone.layer2.0.relu"][1] == "2"
    assert rows["neck"][2] == "[(B, 64)]"
    assert "backbone.layer3.1.conv2" in teacher


def test_the_input_size_comes_from_the_config() -> None:
    for name, size in (
        ("mmpretrain::resnet/resnet18_8xb32_in1k.py", (224, 224)),
        ("mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k-384px.py", (384, 384)),
        ("mmpretrain::efficientnet/efficientnet-b1_8xb32_in1k.py", (240, 240)),
        ("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", (800, 1333)),
        (f"kd_mm::{CIFAR}/resnet8_1xb64_cifar100.py", (32, 32)),
        ("kd_mm::classification/tiny_imagenet/resnet18_1xb64_tiny-imagenet.py", (64, 64)),
        ("mmpretrain::resnet/resnet18_8xb16_cifar10.py", (32, 32)),
    ):
        assert config_input_size(load_config(name)) == size
    assert config_input_size({"model": {}}) is None
