"""The npz writer against NumPy: what np.load gives, and the bytes of np.save in each member."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from writer_models import codes_of, decoded, model, strided, views

from wtool.dtypes import DTYPES
from wtool.errors import LossError, UnsupportedError
from wtool.writers import plan, save

# By name: ml_dtypes adds its types to NumPy's own tables once it is imported.
NATIVE = [
    DTYPES[name]
    for name in (
        *("float64", "float32", "float16", "complex128", "complex64", "bool"),
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    )
]


def test_every_type_shape_and_order_comes_back_from_numpy(tmp_path):
    arrays = {d.name: codes_of(d, 24).reshape(2, 3, 4) for d in NATIVE}
    tensors = [strided(n, a, DTYPES[n]) for n, a in arrays.items()]
    more = {
        "scalar": np.asarray(np.float32(1.5)),
        "empty": np.zeros((0, 3)),
        "layer/é:0": np.arange(10**6),
    }
    base = np.arange(6.0)
    tensors += [decoded(n, a) for n, a in more.items()]
    tensors.append(views("transposed", base, (3, 2), strides=(1, 3)))
    arrays |= more | {"transposed": base.reshape(2, 3).T}
    save(model(tensors), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as found:
        assert found.files == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            assert found[name].shape == array.shape
            assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert archive.testzip() is None
        assert len(NATIVE) == 14
        for name, array in arrays.items():
            expected = io.BytesIO()
            np.save(expected, np.array(array, order="C"))
            assert archive.read(f"{name}.npy") == expected.getvalue()


def test_a_model_without_tensors_is_an_empty_archive(tmp_path):
    save(model({}), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as found:
        assert found.files == []


def test_types_that_numpy_lacks_are_listed(tmp_path):
    names = ["bfloat16", "float8_e5m2", "complex32", "qint8", "int4"]
    tensors = [strided(f"x.{n}", codes_of(DTYPES[n], 4), DTYPES[n]) for n in names]
    with pytest.raises(UnsupportedError) as error:
        plan(model(tensors), tmp_path / "m.npz")
    assert all(f"type {n}: 'x.{n}'" in str(error.value) for n in names)


def test_ties_are_a_loss_unless_untied(tmp_path):
    storage = np.arange(6.0)
    tied = model([views("a", storage, (6,)), views("b", storage, (6,))])
    with pytest.raises(LossError, match="ties 'b'"):
        save(tied, tmp_path / "m.npz")
    save(tied, tmp_path / "m.npz", untie=True)
    with np.load(tmp_path / "m.npz") as found:
        assert found["a"].tolist() == found["b"].tolist() == storage.tolist()
