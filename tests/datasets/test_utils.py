"""Safe reading of pickled arrays."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from kd_mm.datasets.utils import load_arrays

from ..helpers.errors import assert_refused
from ..helpers.faults import Bomb


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """Bytes of Python 2 for ``{"data": data, "labels": labels}`` (protocol 2), opcode by opcode."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    raw = data.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    minus = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + 2 * minus + b"K\x00tb"
    shape = b"".join(b"M" + struct.pack("<H", size) for size in data.shape)
    array = empty + b"(K\x01(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def test_the_official_files_were_written_by_python_2(tmp_path: Path) -> None:
    data = np.random.RandomState(0).randint(0, 256, (3, 300), dtype=np.uint8)
    (tmp_path / "batch").write_bytes(python2_pickle(data, [6, 9, 1]))
    content = load_arrays(tmp_path / "batch")
    assert np.array_equal(content["data"], data)
    assert content["data"].dtype == np.uint8
    assert content["labels"] == [6, 9, 1]


def test_every_protocol(tmp_path: Path) -> None:
    content = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "scalar": np.float32(0.5)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "file").write_bytes(pickle.dumps(content, protocol=protocol))
        loaded = load_arrays(tmp_path / "file")
        assert np.array_equal(loaded["data"], content["data"])
        assert loaded["labels"] == [1, 2]
        assert loaded["scalar"] == np.float32(0.5)


def test_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({"data": Bomb(tmp_path / "ran")}))
    with pytest.raises(ValueError, match=r"refers to (posix|nt)\.mkdir") as caught:
        load_arrays(tmp_path / "file")
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(caught.value)
    for name in ("builtins\neval", "os\nsystem", "numpy\nload", "numpy._core.multiarray\nfromfile"):
        (tmp_path / "file").write_bytes(b"c" + name.encode() + b"\n.")
        assert_refused(name.replace("\n", r"\."), load_arrays, tmp_path / "file")


def test_damaged_files_raise_one_line(tmp_path: Path) -> None:
    content = pickle.dumps({"data": np.zeros((4, 8), np.uint8), "labels": [1, 2, 3, 4]})
    path = tmp_path / "file"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert_refused(f"{path} (is damaged|holds a)", load_arrays, path)
    path.write_text("<html>404</html>")
    assert_refused("is damaged or is not the file", load_arrays, path)
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path / "nothing")
