"""Object code is kept, found again, and never loaded where it is not whole or not ours."""

from __future__ import annotations

import numpy as np
import pytest

from wtool.kernels import native

NAMES = ("count_halves",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WTOOL_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def compilations(monkeypatch):
    """Names of the loops that were compiled."""
    names: list[str] = []
    compile_loop = native.compile_loop
    monkeypatch.setattr(native, "compile_loop", lambda n: names.append(n) or compile_loop(n))
    return names


def counts(linked: native.Linked) -> np.ndarray:
    table = np.zeros((4, 1 << 16), np.uint32)
    words = np.array([1, 2, 2, 65535] * 3, np.uint16)
    linked["count_halves"](words.ctypes.data, 3, table.ctypes.data)
    return table.sum(axis=0)[[1, 2, 65535]]


def test_a_loop_is_compiled_once_and_then_found(folder, compilations):
    for _ in range(2):
        linked = native.link(NAMES, native.COMPILE_FROM)
        assert linked is not None
        assert counts(linked).tolist() == [3, 6, 3]
    assert compilations == ["count_halves"]
    assert len(list(folder.iterdir())) == 1


def test_what_is_linked_is_there_for_the_whole_process(folder, monkeypatch, compilations):
    monkeypatch.setattr(native, "_LINKED", {})
    linked = native.load(NAMES, native.COMPILE_FROM)
    for kept in folder.iterdir():
        kept.unlink()
    assert native.load(NAMES, native.LINK_FROM) is linked
    assert len(compilations) == 1


def test_small_work_neither_links_nor_compiles(folder, compilations):
    assert native.load(NAMES, native.LINK_FROM - 1) is None
    assert native.link(NAMES, native.COMPILE_FROM - 1) is None
    assert compilations == []


def test_a_kept_file_that_is_not_whole_is_compiled_again(folder, compilations):
    native.link(NAMES, native.COMPILE_FROM)
    [kept] = folder.iterdir()
    data = kept.read_bytes()
    for broken in (b"", data[:3], data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        kept.write_bytes(broken)
        linked = native.link(NAMES, native.COMPILE_FROM)
        assert linked is not None
        assert counts(linked).tolist() == [3, 6, 3]
        assert kept.read_bytes() == data
    assert len(compilations) == 5


def test_a_folder_in_the_place_of_a_kept_file_is_no_bug(folder, compilations):
    native.link(NAMES, native.COMPILE_FROM)
    [kept] = folder.iterdir()
    kept.unlink()
    kept.mkdir()
    assert native.link(NAMES, native.COMPILE_FROM) is not None
    assert list(folder.iterdir()) == [kept]


def test_a_kept_file_that_others_can_write_is_not_loaded(folder, compilations):
    native.link(NAMES, native.COMPILE_FROM)
    [kept] = folder.iterdir()
    kept.chmod(0o666)
    assert native.link(NAMES, native.COMPILE_FROM - 1) is None


def test_where_nothing_can_be_kept_only_the_largest_work_compiles(
    tmp_path, monkeypatch, compilations
):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("WTOOL_CACHE_DIR", str(tmp_path / "file"))
    assert native.link(NAMES, native.COMPILE_FROM) is None
    assert native.link(NAMES, native.COMPILE_ALWAYS_FROM) is not None
    assert compilations == ["count_halves"]
