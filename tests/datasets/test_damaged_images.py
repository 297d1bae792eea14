"""Images whose damage is detected only when they are decoded: they stop the run by name, or are skipped."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from kd_mm.datasets.damaged_images import DamagedImageError, decoding_error, file_damage
from kd_mm.datasets.image_files import read_header

from ..helpers.voc_folder import CAT, PIPELINE, VOCFolder, read, read_error, truncate, xml

UNDECODABLE = "it cannot be decoded; libpng error: IDAT: unknown compression method"


def corrupt(voc: VOCFolder, name: str) -> Path:
    """Replace an image by a PNG with a header and an end, and nothing between them that can be decoded."""
    (voc.folder / "JPEGImages" / f"{name}.jpg").unlink()
    path = voc.image(name, suffix=".png")
    content = path.read_bytes()
    path.write_bytes(content[:41] + bytes(len(content) - 53) + content[-12:])
    return path


def test_undecodable_image_is_replaced_in_training_and_left_out_of_a_test(voc: VOCFolder, warnings: list[str]) -> None:
    path = corrupt(voc, "b")
    dataset = read(voc, on_error="skip", pipeline=PIPELINE)
    np.random.seed(0)
    assert {dataset[1]["data_samples"].img_id for _ in range(20)} == {"a", "c"}
    assert warnings == [f"skipped {path}: {UNDECODABLE}; 1 so far"]
    dataset = read(voc, on_error="skip", pipeline=PIPELINE, test_mode=True)
    assert [dataset[index]["data_samples"].img_id for index in range(len(dataset))] == ["a", "c"]
    assert f"b ({path}: {UNDECODABLE})" in read_error(voc, test_mode=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_undecodable_image_stops_with_one_line(voc: VOCFolder, workers: int) -> None:
    path = corrupt(voc, "b")
    dataset = read(voc, pipeline=PIPELINE)
    with (
        DefaultScope.overwrite_default_scope("mmdet"),
        pytest.raises(DamagedImageError) as error,
    ):
        list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert str(error.value).startswith(f"{path}: {UNDECODABLE}; repair it or take it out of ")
    assert "\n" not in str(error.value)


def zeros(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(400) + content[len(content) // 2 + 400 :]


def cut_out(content: bytes) -> bytes:
    return content[: len(content) // 2] + content[len(content) // 2 + 400 :]


def cut_off(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4] + b"\xff\xd9"


@pytest.mark.parametrize(
    ("damage", "progressive", "backend"),
    [(zeros, False, "cv2"), (cut_out, True, "pillow"), (cut_off, False, "pillow"), (cut_off, True, "cv2")],
)
def test_damage_that_decodes_to_an_image(
    voc: VOCFolder, warnings: list[str], capfd: pytest.CaptureFixture[str], damage: Any, progressive: bool, backend: str
) -> None:
    path = voc.image("b", 160, 120, progressive=progressive)
    voc.annotate("b", xml([CAT], size=""))
    path.write_bytes(damage(path.read_bytes()))
    assert file_damage(str(path)) == ""
    pipeline = [{"type": "LoadImageFromFile", "imdecode_backend": backend}, *PIPELINE[1:]]
    with pytest.raises(DamagedImageError) as error:
        read(voc, pipeline=pipeline)[1]
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}: Corrupt JPEG data: ")
    assert "; repair it or take it out of " in line
    skipping = read(voc, on_error="skip", pipeline=pipeline)
    assert {skipping[1]["data_samples"].img_id for _ in range(20)} <= {"a", "c"}
    (skipped,) = warnings
    assert skipped.startswith(f"skipped {path}: Corrupt JPEG data: ")
    assert f"b ({path}: Corrupt JPEG data: " in read_error(voc, test_mode=True)
    assert len(read(voc, test_mode=True, on_error="skip")) == 2
    assert capfd.readouterr().err == ""  # libjpeg's own warning, without the file's name


def test_stray_bytes_after_a_complete_image_are_no_damage(voc: VOCFolder, capfd: pytest.CaptureFixture[str]) -> None:
    path = voc.image("b")
    path.write_bytes(path.read_bytes()[:-2] + bytes(8) + b"\xff\xd9")
    assert read(voc, pipeline=PIPELINE)[1]["data_samples"].img_id == "b"
    assert "extraneous bytes before marker 0xd9" in capfd.readouterr().err
    assert decoding_error(str(path)) == ""


def test_other_output_to_stderr_and_other_errors_are_passed_on(
    voc: VOCFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    def write_to_stderr(results: dict[str, Any]) -> dict[str, Any]:
        print("own transform", file=sys.stderr)
        os.write(2, b"and its library\n")
        return results

    path = voc.image("b")
    path.write_bytes(cut_off(path.read_bytes()))
    dataset = read(voc, pipeline=[PIPELINE[0], write_to_stderr])
    assert dataset[0]["img"].shape == (48, 64, 3)
    with pytest.raises(DamagedImageError):
        dataset[1]
    assert capfd.readouterr().err == "own transform\nand its library\n" * 2

    def fail(results: dict[str, Any]) -> None:
        raise ArithmeticError("own transform")

    with pytest.raises(ArithmeticError, match="own transform"):
        read(voc, on_error="skip", pipeline=[fail])[0]


def test_complete_files_pass_and_truncated_ones_do_not(voc: VOCFolder) -> None:
    for suffix in (".jpg", ".png", ".bmp", ".webp"):
        path = voc.image("z", suffix=suffix)
        assert file_damage(str(path)) == decoding_error(str(path)) == ""
        with path.open("ab") as file:
            file.write(b"\x00" * 5)  # as some cameras do
        assert file_damage(str(path)) == ""
        truncate(path)
        assert file_damage(str(path))


def test_a_scan_of_more_pixels_than_pillow_takes_from_strangers(tmp_path: Path) -> None:
    Image.new("1", (13_500, 13_500)).save(tmp_path / "scan.png")
    assert read_header(str(tmp_path / "scan.png")).size == (13_500, 13_500)
    assert file_damage(str(tmp_path / "scan.png")) == ""
