"""torch files that attack or contradict themselves: one line, exit code 3, bounded memory."""

import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bounded import bounded
from pickle_code import EMPTY_HOOKS, call, integer, name, sizes, storage, tensor, text
from pickle_code import pickle as pickled
from zip_bytes import Entry, build

from wtool.errors import InputError, MalformedInput, UnsafeInput, UnsupportedError
from wtool.formats import open_checkpoint

DATA = np.arange(4, dtype="<f4").tobytes()


def archive(body: bytes, *, records: dict[str, bytes | None] | None = None) -> bytes:
    """A torch file around a pickle, with one storage "0" of four float32."""
    everything = {
        "data.pkl": pickled(body),
        "byteorder": b"little",
        "data/0": DATA,
        "version": b"3\n",
    } | (records or {})
    return build(
        [Entry(f"a/{n}".encode(), data) for n, data in everything.items() if data is not None]
    )


def named(node: bytes) -> bytes:
    """{"w": node}."""
    return b"}" + text("w") + node + b"s"


def opened(tmp_path: Path, data: bytes):
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    return open_checkpoint(path)


def test_the_files_of_this_test_are_sound_without_their_faults(tmp_path):
    checkpoint = opened(tmp_path, archive(named(tensor())))
    assert checkpoint["w"].load().tolist() == [0, 1, 2, 3]
    assert opened(tmp_path, archive(named(tensor(size=sizes(2, 2), stride=sizes(1, 2)))))[
        "w"
    ].load().tolist() == [[0, 2], [1, 3]]


BIG = integer(1 << 62)
FULL = integer((1 << 63) - 1)
NAN = b"G" + struct.pack(">d", float("nan"))
HUGE = integer(1 << 5000)

GEOMETRY = {
    "rank mismatch": (tensor(stride=sizes(1, 1)), "differ in rank: expected 1, found 2"),
    "negative size": (tensor(size=sizes(-4)), "bad dimension"),
    "negative stride": (tensor(stride=sizes(-1)), "expected an integer from 0"),
    "negative offset": (tensor(offset=integer(-1)), "offset of a tensor"),
    "beyond the storage": (tensor(size=sizes(5)), "storage too short"),
    "offset beyond": (tensor(offset=integer(1)), "expected elements 1 to 5 of 32 bits, found 16"),
    "stride beyond": (tensor(size=sizes(2), stride=sizes(4)), "storage too short"),
    "count overflows": (
        tensor(size=b"(" + BIG + BIG + b"t", stride=sizes(0, 0)), "too many elements"
    ),
    "span overflows": (
        tensor(size=sizes(3), stride=b"(" + FULL + b"t"), "storage too short"
    ),
    "stride beyond int64": (
        tensor(stride=b"(" + integer(1 << 63) + b"t"), "found 9223372036854775808"
    ),
    "dimension beyond int64": (
        tensor(size=b"(" + integer(1 << 70) + b"t"), "too many elements"
    ),
    "huge offset": (tensor(offset=HUGE), "found integer of 5001 bits"),
    "65 dimensions": (
        tensor(size=sizes(*[1] * 65), stride=sizes(*[1] * 65)), "too many dimensions"
    ),
    "float dimension": (tensor(size=b"(G" + bytes(8) + b"t"), "bad dimension"),
    "NaN dimension": (tensor(size=b"(" + NAN + b"t"), "bad dimension"),
    "boolean dimension": (tensor(size=b"(\x88t"), "bad dimension"),
    "text dimension": (tensor(size=b"(" + text("4") + b"t"), "bad dimension"),
    "boolean stride": (tensor(stride=b"(\x88t"), "stride of a tensor"),
    "float stride": (tensor(stride=b"(G" + bytes(8) + b"t"), "stride of a tensor"),
    "size is a number": (tensor(size=integer(4)), "size of a tensor: expected a tuple"),
    "storage is a tensor": (tensor(tensor()), "tensor without a storage: found Call"),
    "storage is missing": (tensor(b"N"), "tensor without a storage: found NoneType"),
    "too few arguments": (
        call("torch._utils._rebuild_tensor_v2", storage()), "expected 6 to 7, found 1"
    ),
    "unknown element type": (
        call(
            "torch._utils._rebuild_tensor_v3", storage(), integer(0), sizes(4), sizes(1), b"\x89",
            EMPTY_HOOKS, text("float32"),
        ),
        "element type of a tensor",
    ),
    "negative view of booleans": (
        call(
            "torch._utils._rebuild_tensor_v3", storage(), integer(0), sizes(4), sizes(1), b"\x89",
            EMPTY_HOOKS, name("torch.bool"), b"}" + text("neg") + b"\x88s",
        ),
        "without a sign: found bool",
    ),
    "parameter of a number": (
        call("torch._utils._rebuild_parameter", integer(1), b"\x89", EMPTY_HOOKS),
        "expected a tensor: found int",
    ),
    "old tensor without storage": (b"ctorch\nFloatTensor\n)\x81(K\1K\1tb", "state of torch.Float"),
    "meta tensor of two ranks": (
        call(
            "torch._utils._rebuild_meta_tensor_no_storage",
            name("torch.float32"), sizes(1), sizes(1, 1), b"\x89",
        ),
        "differ in rank",
    ),
}  # fmt: skip

IDS = {
    "not a tuple": (text("0") + b"Q", "of another kind"),
    "too short": (b"(" + text("storage") + b"tQ", "found tuple of 1"),
    "other first item": (
        b"(" + text("module") + b"NNNNtQ", "expected ('storage', class, key, location, numel)"
    ),
    "key is a number": (storage(key=integer(0)), "key of a storage is no text: found 0"),
    "key leaves the folder": (
        storage(key=text("../version")), "without the record 'data/../version'"
    ),
    "key with a NUL": (storage(key=text("0\0")), "key of a storage is no text"),
    "key of no record": (storage(key=text("9")), "without the record 'data/9'"),
    "negative count": (storage(numel=integer(-1)), "number of elements in a storage"),
    "count of 2^62": (storage(numel=BIG), "number of elements in a storage"),
    "count too large": (storage(numel=integer(5)), "expected 20 bytes, found 16"),
    "count too small": (storage(numel=integer(3)), "expected 12 bytes, found 16"),
    "count is true": (storage(numel=b"\x88"), "number of elements in a storage"),
    "location is a number": (storage(location=b"K\1"), "device of a storage is no text"),
    "class is no storage": (storage(kind=name("os.system")), "class of a storage is unknown"),
    "class of another module": (storage(kind=name("os.FloatStorage")), "found os.FloatStorage"),
    "class is text": (storage(kind=text("torch.FloatStorage")), "class of a storage is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("fault", [*GEOMETRY, *IDS])
def test_a_tensor_that_lies_is_refused_by_name(tmp_path, fault):
    node, message = GEOMETRY.get(fault) or (tensor(IDS[fault][0]), IDS[fault][1])
    with pytest.raises(MalformedInput) as caught:
        opened(tmp_path, archive(named(node)))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/model.pth: tensor 'w':")
    assert message in line
    assert "\n" not in line


def test_one_storage_under_two_types_is_refused(tmp_path):
    other = tensor(storage(kind=name("torch.IntStorage")))
    body = b"}(" + text("a") + tensor() + text("b") + other + b"u"
    with pytest.raises(MalformedInput, match=r"'b'.*'0' is named in two ways.*found 4 x int32"):
        opened(tmp_path, archive(body))


def test_views_without_elements_may_start_anywhere(tmp_path):
    node = tensor(offset=integer(99), size=sizes(2, 0), stride=sizes(7, 1))
    assert opened(tmp_path, archive(named(node)))["w"].load().shape == (2, 0)


def test_lists_in_place_of_tuples_are_accepted_as_torch_does(tmp_path):
    node = tensor(size=b"](K\x02K\x02e", stride=b"](K\x02K\x01e")
    assert opened(tmp_path, archive(named(node)))["w"].load().tolist() == [[0, 1], [2, 3]]


def test_a_storage_inside_the_pickle_is_named_as_such(tmp_path):
    place = call("torch.storage._load_from_bytes", b"C\4abcd")
    with pytest.raises(UnsupportedError, match="storage is a torch file of its own"):
        opened(tmp_path, archive(named(tensor(place))))


def test_an_expanded_tensor_opens_and_is_not_loaded_whole(tmp_path):
    node = tensor(size=b"(" + integer(1 << 40) + b"t", stride=sizes(0))
    ours = opened(tmp_path, archive(named(node)))["w"]
    assert ours.count == 1 << 40
    assert ours.read(5, 7).tolist() == [0, 0]
    with pytest.raises(Exception, match="repeats a few stored bytes"):
        ours.load()


def test_hostile_booleans_are_true_or_false(tmp_path):
    node = tensor(storage(kind=name("torch.BoolStorage"), numel=integer(16)), size=sizes(16))
    values = opened(tmp_path, archive(named(node)))["w"].load()
    assert values.tolist() == [byte != 0 for byte in DATA]


def test_tensors_of_the_first_torch_versions_are_read(tmp_path):
    v1 = call("torch._utils._rebuild_tensor", storage(), integer(0), sizes(4), sizes(1))
    old = b"ctorch\nFloatTensor\n)\x81(" + storage() + integer(0) + sizes(4) + sizes(1) + b"tb"
    cls = b"ctorch.nn.parameter\nParameter\n"
    three = cls + b")\x81(" + v1 + b"\x88" + EMPTY_HOOKS + b"tb"
    five = cls + b")\x81(" + v1 + b"N" + EMPTY_HOOKS + b"\x88\x89tb"
    for node in (v1, old, three, five):
        assert opened(tmp_path, archive(named(node)))["w"].load().tolist() == [0, 1, 2, 3]


def array(*state: bytes, code: bytes = text("f4")) -> bytes:
    """A pickled NumPy array with that state after its version."""
    dtype = (
        call("numpy.dtype", code, b"\x89\x88")
        + b"(K\3"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    start = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(K\0t", b"C\1b")
    return start + b"(K\1" + b"".join(dtype if part is DTYPE else part for part in state) + b"tb"


DTYPE = b"dtype goes here"

ARRAYS = {
    "wrong byte count": (array(sizes(2), DTYPE, b"\x89", b"C\4abcd"), "expected (2,) x 4 bytes"),
    "negative shape": (array(sizes(-1), DTYPE, b"\x89", b"C\4abcd"), "shape of a NumPy array"),
    "shape of 2^80": (
        array(sizes(1 << 40, 1 << 40), DTYPE, b"\x89", b"C\4abcd"), "another size than its shape"
    ),
    "state too short": (array(sizes(1), DTYPE), "expected 5 values"),
    "type code of words": (
        array(sizes(1), DTYPE, b"\x89", b"C\4abcd", code=text("O,O,(9,9)O")), "type code is unknown"
    ),
    "type code of 2 GiB": (
        array(sizes(1), DTYPE, b"\x89", b"C\4abcd", code=text("V2147483647")),
        "expected (1,) x 2147483647 bytes",
    ),
    "very long type code": (
        array(sizes(1), DTYPE, b"\x89", b"C\4abcd", code=text("f" * 9000)), "type code is unknown"
    ),
    "type code is a number": (
        array(sizes(1), DTYPE, b"\x89", b"C\4abcd", code=b"K\4"), "type code is no text"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", ARRAYS)
def test_a_numpy_array_that_lies_is_refused(tmp_path, fault):
    node, message = ARRAYS[fault]
    with pytest.raises(MalformedInput, match=re.escape(message)):
        opened(tmp_path, archive(named(node)))


def test_arrays_of_objects_and_dates_stay_opaque(tmp_path):
    for code in ("O", "M8", "m8", "U3", "S2"):
        body = b"C\4abcd" if code in ("U3", "S2") else b"]"
        node = array(sizes(2) if code == "S2" else sizes(0), DTYPE, b"\x89", body, code=text(code))
        if code == "U3":
            continue
        checkpoint = opened(tmp_path, archive(named(node)))
        assert len(checkpoint) == 0


def test_a_structured_type_that_doubles_at_each_level_is_refused(tmp_path):
    """25 levels through the memo are a few kilobytes; walked as a tree they are 2^25 fields."""
    dtype = np.dtype("f4")
    for _ in range(25):
        dtype = np.dtype([("a", dtype), ("b", dtype)])
    torch.save({"rows": np.zeros(0, dtype), "w": torch.ones(2)}, tmp_path / "m.pth")
    with bounded(), pytest.raises(UnsafeInput):
        open_checkpoint(tmp_path / "m.pth")


CYCLES = {
    "list": b"]q\0h\0a",
    "dictionary": b"}q\0" + text("self") + b"h\0s",
    "ordered": b"ccollections\nOrderedDict\n)Rq\0" + text("self") + b"h\0s",
    "through a tuple": b"]q\0(h\0ta",
}


@pytest.mark.parametrize("kind", CYCLES)
def test_a_container_that_contains_itself_is_refused(tmp_path, kind):
    with pytest.raises(MalformedInput, match="container that contains itself"):
        opened(tmp_path, archive(named(CYCLES[kind])))


def test_an_object_that_refers_to_itself_is_listed_once(tmp_path):
    node = b"cmymod\nThing\n)\x81q\0}(" + text("me") + b"h\0" + text("w") + tensor() + b"ub"
    checkpoint = opened(tmp_path, archive(node))
    assert list(checkpoint.tensors) == ["w"]
    assert "objects that refer back to themselves are listed once" in checkpoint.notes


def test_parameters_of_parameters_without_end_are_refused(tmp_path):
    deep = tensor()
    for _ in range(40):
        deep = call("torch._utils._rebuild_parameter", deep, b"\x89", EMPTY_HOOKS)
    with pytest.raises(MalformedInput, match="tensors wrapped in tensors: expected at most 16"):
        opened(tmp_path, archive(named(deep)))


RECORDS = {
    "no version": ({"version": None}, "without a record 'version'"),
    "version 0": ({"version": b"0"}, "expected 1 to 10, found '0'"),
    "version 11": ({"version": b"11\n"}, "expected 1 to 10, found '11"),
    "version abc": ({"version": b"abc"}, "version of the torch file is unknown"),
    "version of 4300 digits": ({"version": b"1" * 250}, "version of the torch file is unknown"),
    "long version": ({"version": b"3" + b" " * 999}, "too large to be read whole"),
    "byte order": ({"byteorder": b"weird"}, "'little' or 'big', found 'weird'"),
    "empty byte order": ({"byteorder": b""}, "byte order of the torch file is unknown"),
    "alignment": ({".storage_alignment": b"x"}, "alignment of the storages is no number"),
    "alignment 0": ({".storage_alignment": b"0"}, "alignment of the storages is no number"),
    "short record": ({"data/0": DATA[:-1]}, "expected 16 bytes, found 15"),
    "long record": ({"data/0": DATA + b"\0"}, "expected 16 bytes, found 17"),
    "no record": ({"data/0": None}, "without the record 'data/0'"),
    "bytes after the pickle": (
        {"data.pkl": pickled(b"N") + b"\0"}, "bytes after the end of the pickle: found 1"
    ),
    "empty pickle": ({"data.pkl": b""}, "ends before its STOP"),
}  # fmt: skip


@pytest.mark.parametrize("fault", RECORDS)
def test_records_that_contradict_are_refused(tmp_path, fault):
    records, message = RECORDS[fault]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        opened(tmp_path, archive(named(tensor()), records=records))
    assert caught.value.exit_code == 3
    assert str(tmp_path / "model.pth") in str(caught.value)


def test_versions_that_torch_accepts_are_accepted(tmp_path):
    for version in (b"1", b"10\n", b"3junk"):
        opened(tmp_path, archive(named(tensor()), records={"version": version}))
    hidden = {"version": None, ".data/version": b"6\n"}
    opened(tmp_path, archive(named(tensor()), records=hidden))


@pytest.mark.parametrize("other", ["b/x", "x", "/x", "../x", "A/x"])
def test_members_outside_the_folder_are_refused(tmp_path, other):
    data = build(
        [
            Entry(b"a/data.pkl", pickled(named(tensor()))),
            Entry(b"a/data/0", DATA),
            Entry(b"a/version", b"3\n"),
            Entry(other.encode(), b""),
        ]
    )
    with pytest.raises(MalformedInput, match="outside the archive's folder"):
        opened(tmp_path, data)


@pytest.mark.parametrize("prefix", ["..", "", "my model é"])
def test_a_folder_may_have_any_name(tmp_path, prefix):
    records = {"data.pkl": pickled(named(tensor())), "data/0": DATA, "version": b"3\n"}
    data = build([Entry(f"{prefix}/{n}".encode(), d) for n, d in records.items()])
    assert opened(tmp_path, data)["w"].load().tolist() == [0, 1, 2, 3]


def laughs() -> bytes:
    lists = b"".join(b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(60))
    return b"]q\x000" + lists + b"h\x3c"


def long_names() -> bytes:
    """One key of 60,000 characters above a million entries: 60 GB of names, if all were made."""
    inner = b"}(" + b"".join(text(f"{i}") + b"]" for i in range(100_000)) + b"u"
    return b"}" + text("k" * 60_000) + inner + b"s"


BOMBS = {
    "billion laughs": laughs(),
    "a million nested lists": b"]" * 1_000_000 + b"a" * 999_999,
    "a million nested tuples": b"N" + b"\x85" * 1_000_000,
    "a million marks": b"(" * 1_000_000,
    "too many lists": b"]" * 5_000_000,
    "long names": long_names(),
    "text of 4 GiB": b"X\xff\xff\xff\xff",
    "bytearray of 1 TiB": b"\x96" + struct.pack("<Q", 1 << 40),
    "memo of 2^28": b"Nr\0\0\0\x10",
    "a global of 10 MB": b"cos\n" + b"x" * 10_000_000,
}

# Opens each file under limits of memory and time; says what each gave. Nothing may be imported by
# a name in a file, so that modules are compared before and after.
RUNNER = """
import faulthandler, resource, sys, time
faulthandler.dump_traceback_later(280, exit=True)
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from wtool.errors import WtoolError
from wtool.formats import open_checkpoint
open_checkpoint(sys.argv[1])
before = set(sys.modules)
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        open_checkpoint(path)
        code, line = 0, "opened"
    except WtoolError as error:
        code, line = error.exit_code, str(error)
    seconds = time.process_time() - start
    print(code, "slow" if seconds > 5 else "quick", line)
    assert set(sys.modules) == before, set(sys.modules) - before
"""


@pytest.fixture(scope="module")
def bombs_opened(tmp_path_factory):
    """Bomb -> the line that a process with 1 GiB of memory printed for it."""
    folder = tmp_path_factory.mktemp("bombs")
    canary = folder / "canary"
    files = {"sound": archive(named(tensor()))}
    files |= {bomb: archive(named(body)) for bomb, body in BOMBS.items()}
    zeros = b"\x8e" + struct.pack("<Q", 300 << 20)
    packed = Entry(b"a/data.pkl", b"\x80\x04" + zeros + bytes(300 << 20) + b".", 8)
    files["deflated pickle"] = build([packed, Entry(b"a/version", b"3\n")])
    runs = call("os.system", text(f"touch {canary}")) + b"0" + call("antigravity.fly")
    files["runs code"] = archive(runs + b"0" + named(tensor()))
    paths = []
    for index, data in enumerate(files.values()):
        paths.append(folder / f"{index}.pth")
        paths[-1].write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, [paths[0], *paths])],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not canary.exists()
    return dict(zip(files, result.stdout.splitlines(), strict=True))


MESSAGES = {
    "billion laughs": "shared values multiply",
    "a million nested lists": "nested too deep: expected at most 1000 levels",
    "a million nested tuples": "nested too deep: expected at most 1000 levels",
    "a million marks": "too many open marks",
    "too many lists": "too many objects",
    "long names": "names too long",
    "text of 4 GiB": "value longer than what is left of the pickle: expected 4294967295 bytes",
    "bytearray of 1 TiB": "value longer than what is left of the pickle",
    "memo of 2^28": "memo index larger than the pickle",
    "a global of 10 MB": "line of text too long",
    "deflated pickle": "too large to be read whole",
}


@pytest.mark.parametrize("bomb", MESSAGES)
def test_bombs_are_refused_in_bounded_time_and_memory(bombs_opened, bomb):
    line = bombs_opened[bomb]
    assert line.startswith("3 quick ")
    assert MESSAGES[bomb] in line


def test_code_in_a_pickle_is_not_run_and_its_modules_are_not_imported(bombs_opened):
    assert bombs_opened["runs code"].startswith("0 quick opened")
    assert bombs_opened["sound"].startswith("0 quick opened")


def bomb(levels: int = 60) -> bytes:
    """A tuple of two tuples, each of two, and so on: a few bytes that say 2^levels."""
    code = b")q\0"
    for level in range(levels):
        inner = b"h" + bytes([level])
        code += b"0(" + inner + inner + b"tq" + bytes([level + 1])
    return code


BOMBED = {
    "class of a storage": (tensor(storage(kind=bomb())), "class of a storage is unknown"),
    "key of a storage": (tensor(storage(key=bomb())), "key of a storage is no text"),
    "place of a storage": (tensor(storage(location=bomb())), "device of a storage is no text"),
    "number of elements": (tensor(storage(numel=bomb())), "number of elements in a storage"),
    "storage": (tensor(bomb()), "tensor without a storage"),
    "offset": (tensor(offset=bomb()), "offset of a tensor"),
    "size": (tensor(size=bomb()), "bad dimension"),
    "stride": (tensor(stride=bomb()), "stride of a tensor"),
    "element type": (
        call(
            "torch._utils._rebuild_tensor_v3", storage(), integer(0), sizes(4), sizes(1), b"\x89",
            EMPTY_HOOKS, bomb(),
        ),
        "element type of a tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", BOMBED)
def test_what_a_few_bytes_multiply_is_never_spelled_out(tmp_path, place):
    node, message = BOMBED[place]
    with pytest.raises(MalformedInput, match=message) as caught:
        opened(tmp_path, archive(named(node)))
    assert len(str(caught.value)) < 500


def test_a_key_that_a_few_bytes_multiply_is_numbered(tmp_path):
    made = call("made.up") + b"(" + bomb() + tensor() + b"u"
    assert list(opened(tmp_path, archive(named(made))).tensors) == ["w.0"]


def small_file() -> bytes:
    body = b"}(" + text("a.weight") + tensor() + text("b") + tensor(size=sizes(2)) + text("n")
    return archive(body + b"K\3" + text("l") + b"](K\1K\2eu")


def test_a_file_cut_anywhere_is_an_error_of_the_input(tmp_path):
    data = small_file()
    path = tmp_path / "model.pth"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            open_checkpoint(path)


def test_mutations_are_read_or_refused_and_never_anything_else(tmp_path):
    rng = random.Random(1306)
    seed = small_file()
    path = tmp_path / "model.pth"
    for _ in range(3000):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) - 4)
            kind = rng.randrange(3)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                data[at] ^= 1 << rng.randrange(8)
            else:
                data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1)))
        path.write_bytes(data)
        with bounded():
            try:
                checkpoint = open_checkpoint(path)
            except InputError:
                continue
            for found in checkpoint:
                if found.count < 1000:
                    found.load()


def test_unsafe_is_its_own_class(tmp_path):
    with pytest.raises(UnsafeInput):
        opened(tmp_path, archive(b"(" * 200_000))
