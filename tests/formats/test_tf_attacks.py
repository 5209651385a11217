"""TensorFlow files that attack or are broken: one line that says what is wrong, soon.

TensorFlow itself stops the process on several of these, so it takes no part here.
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import tf_files as tf

from wtool.errors import WtoolError
from wtool.formats import open_checkpoint

MEMORY = 1 << 30
SECONDS = 5
FLOATS = struct.pack("<6f", *range(6))
CRC = tf.masked(FLOATS)
GOOD = tf.entry(tf.FLOAT, (2, 3), size=24, crc=CRC)


def slice_name(extents) -> bytes:
    """Key of a slice of "w" with small numbers; -1 for a whole dimension."""
    codes = b"".join(bytes((0x80 + start, 0x7F if n is None else 0x80 + n)) for start, n in extents)
    return b"\0w\0\1\1" + bytes((len(extents),)) + codes


def sliced(full, pieces):
    """Entries of a tensor w with `pieces`: (extents, entry)."""
    return {b"w": full, **{slice_name(extents): piece for extents, piece in pieces}}


def halves(second_start=1, second=None, **changes):
    extents = [[(0, 1), (0, None)], [(second_start, 1), (0, None)]]
    first = tf.entry(tf.FLOAT, (1, 3), size=12)
    second = second or tf.entry(tf.FLOAT, (1, 3), offset=12, size=12)
    full = tf.entry(tf.FLOAT, changes.get("shape", (2, 3)), slices=extents)
    return sliced(full, [(extents[0], first), (extents[1], second)])


def string_entry(stored: bytes, count: int, crc: int = 0):
    return {b"w": tf.entry(tf.STRING, (count,), size=len(stored), crc=crc)}, stored


def chain(count: int) -> bytes:
    """An object graph of `count` nodes in a row."""
    return tf.object_graph([tf.child(i + 1, "x") for i in range(count - 1)] + [b""])


# name -> (entries, data, rest of write_bundle, message); opened, and "w" loaded where it opens.
ENTRY_ATTACKS = {
    "negative dimension": ({b"w": tf.entry(1, (-2, 3), size=24)}, "w.*bad dimension"),
    "product overflow": ({b"w": tf.entry(1, (2**62, 2**62), size=24)}, "w.*too many elements"),
    "300 dimensions": ({b"w": tf.entry(1, (1,) * 300, size=4)}, "w.*too many dimensions"),
    "unknown type": ({b"w": tf.entry(77, (6,), size=24)}, "w.*unknown element type.*found 77"),
    "type zero": ({b"w": tf.entry(0, (6,), size=24)}, "w.*unknown element type.*found 0"),
    "garbage entry": ({b"w": b"\xff\xfe\xfd"}, "w.*varint"),
    "wire type 3": ({b"w": GOOD + b"\x4b"}, "w.*bad wire type"),
    "wire type 4": ({b"w": GOOD + b"\x4c"}, "w.*bad wire type"),
    "wire type 6": ({b"w": GOOD + b"\x4e"}, "w.*bad wire type"),
    "wire type 7": ({b"w": GOOD + b"\x4f"}, "w.*bad wire type"),
    "long varint": ({b"w": GOOD + b"\x48" + b"\xff" * 11}, "w.*varint too long"),
    "type as text": ({b"w": b"\x0a\x01\x01" + GOOD}, "w.*wrong wire type"),
    "negative offset": ({b"w": tf.entry(1, (2, 3), offset=-8, size=24)}, "w.*negative offset"),
    "negative size": ({b"w": tf.entry(1, (2, 3), size=-24)}, "w.*size of the tensor is not"),
    "offset past the end": (
        {b"w": tf.entry(1, (2, 3), offset=8, size=24)},
        "data file ends before the tensor does.*expected 24 bytes, found 16",
    ),
    "offset 2^62": ({b"w": tf.entry(1, (2, 3), offset=2**62, size=24)}, "data file ends before"),
    "shard out of range": (
        {b"w": tf.entry(1, (2, 3), shard=3, size=24)},
        "w.*no such data file.*expected 0 to 0, found 3",
    ),
    "negative shard": ({b"w": tf.entry(1, (2, 3), shard=-1, size=24)}, "w.*no such data file"),
    "size is not the product": (
        {b"w": tf.entry(1, (2, 3), size=20)},
        r"w.*expected 24 bytes for float32 \[2, 3\], found 20",
    ),
    "unknown rank": (
        {b"w": tf.number(1, 1) + tf.nested(2, tf.number(3, 1)) + tf.number(5, 24)},
        "w.*shape of unknown rank",
    ),
    "count of strings": (
        {b"w": tf.entry(tf.STRING, (2**40,), size=24)},
        "w.*string tensor too small for its shape",
    ),
    "slices with a hole": (
        sliced(
            tf.entry(1, (2, 3), slices=[[(0, 1), (0, None)]]),
            [([(0, 1), (0, None)], tf.entry(1, (1, 3), size=12))],
        ),
        "w.*slices do not cover the tensor.*expected 6, found 3",
    ),
    "slices that overlap": (
        sliced(
            tf.entry(1, (4,), slices=[[(0, 3)], [(2, 1)]]),
            [([(0, 3)], tf.entry(1, (3,), size=12)), ([(2, 1)], tf.entry(1, (1,), size=4))],
        ),
        "w.*slices overlap",
    ),
    "slice beyond its dimension": (halves(2), "w.*slice outside its tensor"),
    "negative slice": (
        {b"w": tf.entry(1, (2, 3), slices=[[(-1, 1), (0, None)]])},
        "w.*slice outside its tensor",
    ),
    "negative slice length": (
        {b"w": tf.entry(1, (2, 3), slices=[[(0, -1), (0, None)]])},
        "w.*negative length of a slice",
    ),
    "slice of another rank": (halves(shape=(2, 3, 1)), "w.*slice and tensor differ in rank"),
    "slice key missing": (
        {b"w": tf.entry(1, (2, 3), slices=[[(0, 2), (0, None)]])},
        r"w.*slice \[0, 0\] of \[2, 3\] is not in the index",
    ),
    "slice of another type": (
        halves(second=tf.entry(tf.INT32, (1, 3), offset=12, size=12)),
        r"w.*differs from its entry.*expected float32 \[1, 3\], found int32 \[1, 3\]",
    ),
    "slice of another shape": (
        halves(second=tf.entry(1, (3, 1), offset=12, size=12)),
        "w.*differs from its entry",
    ),
    "one slice twice": (
        sliced(
            tf.entry(1, (2, 3), slices=[[(0, 1), (0, None)]] * 2),
            [([(0, 1), (0, None)], tf.entry(1, (1, 3), size=12))],
        ),
        "w.*is not in the index, or listed twice",
    ),
    "a million slices": (
        {b"w": GOOD + tf.nested(7, b"") * 1_000_000},
        "w.*too many slices.*found 1000000",
    ),
}

STRING_ATTACKS = {
    "length 2^60": (string_entry(tf.varint(2**60) + bytes(16), 1), "w.*do not add up"),
    "lengths short": (string_entry(b"\x02" + bytes(4) + b"abc", 1), "w.*do not add up"),
    "lengths cut": (string_entry(b"\x80" * 8, 1), "w.*varint runs past its end"),
    "lengths' checksum": (string_entry(b"\x01\0\0\0\0a", 1), "w.*checksum does not match"),
    "strings' checksum": (
        string_entry(tf.string_tensor([b"a"])[0], 1, crc=1),
        "w.*checksum does not match",
    ),
}

HEADER_ATTACKS = {
    "no shards": (tf.header(0), "bad number of data files.*found 0"),
    "2^31 shards": (tf.header(2**31), "bad number of data files.*found 2147483648"),
    "negative shards": (tf.header(-1), "bad number of data files.*found -1"),
    "min_consumer 2": (tf.header(version=b"\x08\x02\x10\x02"), "needs a newer reader.*found 2"),
    "bad_consumers": (tf.header(version=b"\x08\x02\x18\x01"), "forbids readers of version 1"),
    "bad_consumers, packed": (tf.header(version=b"\x1a\x02\x05\x01"), "forbids readers of"),
    "byte order 2": (tf.header() + tf.number(2, 2), "bad byte order.*found 2"),
    "garbage": (b"\x0b", "bad wire type"),
}

LONG = "x" * 60000
GRAPH_ATTACKS = {
    "garbage": (b"\xff\xff", "varint"),
    "empty": (b"", "object graph without nodes"),
    "child out of range": (tf.object_graph([tf.child(7, "a")]), "leads to no node.*found 7"),
    "negative child": (tf.object_graph([tf.child(-1, "a")]), "leads to no node.*found -1"),
    "slot out of range": (
        tf.object_graph([tf.nested(3, tf.number(1, 9))]),
        "leads to no node.*found 9",
    ),
    "absent key": (
        tf.object_graph([tf.attribute("gone")]),
        "names a value that is not in the index.*gone",
    ),
    "a million nodes": (tf.object_graph([b""] * 1_000_000), "object graph too large"),
    "a chain of 100,000": (chain(100_000), "object graph too deep"),
    "paths that multiply": (
        tf.object_graph(
            [tf.child(1, LONG)]
            + [b"".join(tf.child(i + 2, "v") for i in range(2000))]
            + [tf.attribute(f"k{i}") for i in range(2000)]
        ),
        "object graph has too long paths",
    ),
}


def write_all(directory: Path) -> dict[str, tuple[str, str]]:
    """Every attack as a file: name -> (path, message)."""
    cases = {}

    def add(name, message, entries, data=FLOATS, **rest):
        path = tf.write_bundle(directory / f"a{len(cases)}", entries, data, **rest)
        cases[name] = (str(path), message)

    for name, (entries, message) in ENTRY_ATTACKS.items():
        add(name, message, entries)
    for name, ((entries, data), message) in STRING_ATTACKS.items():
        add(f"strings: {name}", message, entries, data)
    for name, (head, message) in HEADER_ATTACKS.items():
        add(f"header: {name}", message, {b"w": GOOD}, head=head)
    for name, (graph, message) in GRAPH_ATTACKS.items():
        keys = [f"k{i}" for i in range(2000)] if "multiply" in name else ["w"]
        path = tf.object_bundle(directory / f"a{len(cases)}", graph, keys)
        cases[f"graph: {name}"] = (str(path), message)
    (directory / "headless.index").write_bytes(tf.table([[(b"w", GOOD)]]))
    cases["no header"] = (str(directory / "headless"), "index without a header")
    sparse = directory / "sparse.index"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    cases["a sparse index"] = (str(directory / "sparse"), "bad magic")
    return cases


# Runs in a process of its own: opens and loads each case under a memory limit, times it.
PROBE = f"""
import json, resource, sys, time
import numpy
from wtool.errors import WtoolError
from wtool.formats import open_checkpoint
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
answers = {{}}
for name, (path, _) in json.load(sys.stdin).items():
    start = time.process_time()
    try:
        open_checkpoint(path)["w"].load()
        answer = [0, "opened"]
    except WtoolError as error:
        answer = [error.exit_code, str(error)]
    answers[name] = [*answer, time.process_time() - start]
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    cases = write_all(tmp_path_factory.mktemp("attacks"))
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return cases, json.loads(done.stdout)


NAMES = [
    *ENTRY_ATTACKS,
    *(f"strings: {name}" for name in STRING_ATTACKS),
    *(f"header: {name}" for name in HEADER_ATTACKS),
    *(f"graph: {name}" for name in GRAPH_ATTACKS),
    "no header",
    "a sparse index",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_attack_is_one_line_with_exit_code_3_in_bounded_time_and_memory(answers, name):
    cases, given = answers
    path, message = cases[name]
    code, text, seconds = given[name]
    assert code == 3, text
    assert "\n" not in text
    assert path in text
    pytest.raises(ValueError, raise_value_error, text).match(message)
    assert seconds < SECONDS


def raise_value_error(text):
    raise ValueError(text)


def test_a_cycle_in_the_object_graph_is_walked_once(tmp_path):
    graph = tf.object_graph(
        [tf.child(1, "a") + tf.child(0, "me"), tf.child(0, "up") + tf.attribute("w", "mine")]
    )
    checkpoint = open_checkpoint(tf.object_bundle(tmp_path / "m", graph, ["w"]))
    assert checkpoint["mine"].path == ("a",)


def test_every_cut_of_an_index_is_an_error(tmp_path):
    prefix = tf.write_bundle(tmp_path / "m", {b"w": GOOD, b"x": GOOD}, FLOATS)
    index = tmp_path / "m.index"
    whole = index.read_bytes()
    for size in range(len(whole)):
        index.write_bytes(whole[:size])
        with pytest.raises(WtoolError) as caught:
            open_checkpoint(prefix)
        assert caught.value.exit_code == 3
        assert "m.index" in str(caught.value)


def test_a_cut_data_file_names_the_tensor_and_what_is_missing(tmp_path):
    prefix = tf.write_bundle(tmp_path / "m", {b"w": GOOD}, FLOATS)
    data = tmp_path / "m.data-00000-of-00001"
    for size in range(24):
        data.write_bytes(FLOATS[:size])
        with pytest.raises(WtoolError, match=rf"tensor 'w'.*expected 24 bytes, found {size}"):
            open_checkpoint(prefix)


def read_everything(prefix):
    for tensor in open_checkpoint(prefix):
        if tensor.dtype.kind != "opaque":
            tensor.load()


def resealed(content: bytes) -> bytes:
    """A table of one block whose content is as given, its checksum right."""
    return tf.assemble([(b"\xff", content, 0)])


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data` with one to four bytes changed, removed or repeated."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(out))
        match rng.randrange(4):
            case 0:
                out[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 1:
                out[place] ^= 1 << rng.randrange(8)
            case 2:
                del out[place : place + rng.randint(1, 8)]
            case _:
                out[place:place] = out[place : place + rng.randint(1, 8)]
        if not out:
            return b"\0"
    return bytes(out)


def test_mutations_of_an_index_give_errors_of_the_file_only(tmp_path):
    graph = tf.object_graph(
        [tf.child(1, "a") + tf.child(2, "b"), tf.attribute("x", "mine"), tf.child(0, "up")]
    )
    stored, crc = tf.string_tensor([graph])
    entries = {
        b"": tf.header(),
        tf.GRAPH_KEY: tf.entry(tf.STRING, (), offset=24, size=len(stored), crc=crc),
        **halves(),
        b"x": GOOD,
        b"y": tf.entry(tf.INT64, (3,), size=24),
    }
    content = tf.block(sorted(entries.items()))
    prefix = tf.write_bundle(tmp_path / "m", {}, FLOATS + stored)
    index, data = tmp_path / "m.index", tmp_path / "m.data-00000-of-00001"
    index.write_bytes(resealed(content))
    read_everything(prefix)
    rng = random.Random(20)
    codes = []
    for round_ in range(3000):
        if round_ % 6 == 5:
            index.write_bytes(resealed(content))
            data.write_bytes(FLOATS + mutated(rng, stored))
        else:
            raw = round_ % 6 == 4
            index.write_bytes(
                mutated(rng, resealed(content)) if raw else resealed(mutated(rng, content))
            )
            data.write_bytes(FLOATS + stored)
        try:
            read_everything(prefix)
        except WtoolError as error:
            codes.append(error.exit_code)
    assert len(codes) > 2000
    assert set(codes) <= {3, 4}


def test_mutations_of_a_v1_file_give_errors_of_the_file_only(tmp_path):
    key = b"\0w\0\1\1\1\x80\x84"
    piece = tf.tensor_slice([(0, 4)])
    listed = (
        tf.nested(1, b"w") + tf.nested(2, tf.shape((4,))) + tf.number(3, 3) + tf.nested(4, piece)
    )
    values = tf.nested(1, b"w") + tf.nested(2, piece) + tf.nested(3, tf.nested(7, b"\1\2\3\xff\1"))
    content = tf.block([(b"", tf.nested(1, tf.nested(1, listed))), (key, tf.nested(2, values))])
    path = tmp_path / "m.ckpt"
    path.write_bytes(resealed(content))
    assert open_checkpoint(path)["w"].load().tolist() == [1, 2, 3, 255]
    rng = random.Random(21)
    codes = []
    for round_ in range(2000):
        raw = round_ % 4 == 3
        path.write_bytes(
            mutated(rng, resealed(content)) if raw else resealed(mutated(rng, content))
        )
        try:
            read_everything(path)
        except WtoolError as error:
            codes.append(error.exit_code)
    assert len(codes) > 1500
    assert set(codes) <= {3, 4}
