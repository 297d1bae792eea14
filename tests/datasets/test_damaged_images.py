"""Images that look sound at both ends and are not: found when they are decoded, named, and stopped at or skipped."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from kd_mm.datasets.damaged_images import DamagedImageError, decoding_error, file_damage

from ..helpers.voc_folder import PIPELINE, VOCFolder, read, read_error, truncate


def spoil(voc: VOCFolder, name: str) -> Path:
    """Make an image that has both ends of a JPEG and nothing between them that can be decoded."""
    path = voc.folder / "JPEGImages" / f"{name}.jpg"
    path.write_bytes(b"\xff\xd8" + bytes(200) + b"\xff\xd9")
    return path


def test_an_image_that_cannot_be_decoded_is_replaced_in_training(voc: VOCFolder, said: list[str]) -> None:
    path = spoil(voc, "b")
    dataset = read(voc, on_error="skip", pipeline=PIPELINE)
    np.random.seed(0)
    assert {dataset[1]["data_samples"].img_id for _ in range(20)} == {"a", "c"}
    assert said == [f"skipped {path}: it cannot be decoded; 1 so far"]


def test_an_image_that_cannot_be_decoded_is_left_out_of_a_test(voc: VOCFolder) -> None:
    path = spoil(voc, "b")
    dataset = read(voc, on_error="skip", pipeline=PIPELINE, test_mode=True)
    assert [dataset[index]["data_samples"].img_id for index in range(len(dataset))] == ["a", "c"]
    assert f"b ({path}: it cannot be decoded)" in read_error(voc, test_mode=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_stops_with_one_line(voc: VOCFolder, workers: int) -> None:
    path = spoil(voc, "b")
    dataset = read(voc, pipeline=PIPELINE)
    with (
        DefaultScope.overwrite_default_scope("mmdet"),
        pytest.raises(DamagedImageError) as error,
    ):
        list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert str(error.value).startswith(f"{path}: it cannot be decoded; repair it or take it out of ")
    assert "\n" not in str(error.value)


def zeros(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(400) + content[len(content) // 2 + 400 :]


def cut_out(content: bytes) -> bytes:
    return content[: len(content) // 2] + content[len(content) // 2 + 400 :]


def cut_off(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4] + b"\xff\xd9"


@pytest.mark.parametrize("harm", [zeros, cut_out, cut_off])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_damage_that_a_picture_comes_out_of_all_the_same(
    voc: VOCFolder, said: list[str], capfd: pytest.CaptureFixture[str], harm: Any, progressive: bool, backend: str
) -> None:
    path = voc.image("b", 160, 120, progressive=progressive)
    path.write_bytes(harm(path.read_bytes()))
    assert file_damage(str(path)) == ""
    pipeline = [{"type": "LoadImageFromFile", "imdecode_backend": backend}, *PIPELINE[1:]]
    with pytest.raises(DamagedImageError) as error:
        read(voc, pipeline=pipeline)[1]
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: Corrupt JPEG data: ")
    assert "; repair it or take it out of " in line
    skipping = read(voc, on_error="skip", pipeline=pipeline)
    assert {skipping[1]["data_samples"].img_id for _ in range(20)} <= {"a", "c"}
    (skipped,) = said
    assert skipped.startswith(f"skipped {path}: Corrupt JPEG data: ")
    assert f"b ({path}: Corrupt JPEG data: " in read_error(voc, test_mode=True)
    assert len(read(voc, test_mode=True, on_error="skip")) == 2
    assert capfd.readouterr().err == ""  # what libjpeg says without a name


def test_stray_bytes_behind_a_whole_picture_are_no_damage(voc: VOCFolder, capfd: pytest.CaptureFixture[str]) -> None:
    path = voc.image("b")
    path.write_bytes(path.read_bytes()[:-2] + bytes(8) + b"\xff\xd9")
    assert read(voc, pipeline=PIPELINE)[1]["data_samples"].img_id == "b"
    assert "extraneous bytes before marker 0xd9" in capfd.readouterr().err
    assert decoding_error(str(path)) == ""


def test_what_others_write_to_stderr_meanwhile_comes_through(voc: VOCFolder, capfd: pytest.CaptureFixture[str]) -> None:
    def speak(results: dict[str, Any]) -> dict[str, Any]:
        print("own transform", file=sys.stderr)
        os.write(2, b"and its library\n")
        return results

    path = voc.image("b")
    path.write_bytes(cut_off(path.read_bytes()))
    dataset = read(voc, pipeline=[PIPELINE[0], speak])
    assert dataset[0]["img"].shape == (48, 64, 3)
    with pytest.raises(DamagedImageError):
        dataset[1]
    assert capfd.readouterr().err == "own transform\nand its library\n" * 2


def test_other_errors_of_the_pipeline_are_left_as_they_are(voc: VOCFolder) -> None:
    def fail(results: dict[str, Any]) -> None:
        raise ArithmeticError("own transform")

    with pytest.raises(ArithmeticError, match="own transform"):
        read(voc, on_error="skip", pipeline=[fail])[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_whole_files_pass_and_truncated_ones_do_not(voc: VOCFolder, suffix: str) -> None:
    path = voc.image("z", suffix=suffix)
    assert file_damage(str(path)) == decoding_error(str(path)) == ""
    with path.open("ab") as file:
        file.write(b"\x00" * 5)  # as some cameras do
    assert file_damage(str(path)) == ""
    truncate(path)
    assert file_damage(str(path))
