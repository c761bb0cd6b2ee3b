from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from baseline.npz import npz_source, read_npz
from records.errors import DataError
from tests.baseline.small_data import write_npz


def _changed(path: Path, **changes: np.ndarray | None) -> Path:
    arrays: dict[str, np.ndarray] = dict(read_npz(write_npz(path)))
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_a_valid_file_is_read_whole(tmp_path: Path) -> None:
    source = npz_source(write_npz(tmp_path / "d.npz"))
    assert source.train.images.shape == (96, 32, 32, 3)
    assert source.test.labels.dtype == np.int64
    assert source.classes == ("colour 0", "colour 1", "colour 2", "colour 3")


def test_classes_may_be_left_out(tmp_path: Path) -> None:
    assert npz_source(_changed(tmp_path / "d.npz", classes=None)).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_y": None}, "lacks the arrays test_y"),
        ({"train_x": np.zeros((96, 32, 32, 3), np.float32)}, "must be uint8"),
        ({"train_y": np.zeros(96)}, "integer"),
        ({"train_y": np.zeros(95, np.int64)}, "labels of shape"),
        ({"train_x": np.zeros((96, 32, 31, 3), np.uint8)}, "square"),
        ({"train_x": np.zeros((96, 32, 32), np.uint8)}, "square"),
        ({"train_y": np.full(96, 4)}, "outside 0..3"),
        ({"test_y": np.full(40, -1)}, "outside 0..3"),
        ({"classes": np.arange(4)}, "must be strings"),
        ({"test_x": np.zeros((0, 32, 32, 3), np.uint8)}, "empty"),
    ],
)
def test_a_malformed_array_is_refused(
    tmp_path: Path, changes: dict[str, np.ndarray | None], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        npz_source(_changed(tmp_path / "d.npz", **changes))


def test_python_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, train_x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="not a readable npz"):
        read_npz(path)


def test_a_missing_file_and_a_single_array_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_npz(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        read_npz(tmp_path / "one.npy")


@pytest.mark.parametrize("keep", [0, 3, 100, 4000, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = write_npz(tmp_path / "d.npz")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 or keep == 0 else keep * len(data))])
    with pytest.raises(DataError):
        read_npz(path)


def test_an_absurd_shape_is_refused(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        member, {"descr": "|u1", "fortran_order": False, "shape": (1 << 46,)}
    )
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("train_x.npy", member.getvalue())
    with pytest.raises(DataError, match="not a readable npz"):
        read_npz(tmp_path / "d.npz")
