"""Digests of a model's files and tensors, in one reading of each file.

A block is read once: one thread adds it to the file's digest, another to those of the tensors that
lie in it. Values that are not stored as a digest takes them (views, other byte orders, booleans,
chunks) are read through their extents.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate

from wtool.checkpoint import Checkpoint, Tensor
from wtool.dtypes import DTYPES
from wtool.errors import UnsupportedError, WtoolError
from wtool.extents import MAX_EXPANSION, MAX_EXPANSION_BYTES, Absent, Strided
from wtool.kernels.digest import Hasher, header, new_hasher, update_values
from wtool.sources import Descriptors, FileSource, Source, absolute

# Bytes read at once, and how many such blocks may wait for the second thread. Handing a block over
# costs 50 microseconds, hashing 4 MiB two milliseconds.
BLOCK_BYTES = 4 << 20
BLOCKS = 4
# Values that need work on the way stay in the processor's cache.
VALUE_BYTES = 1 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file: its name relative to the model's folder, with "/"; size in bytes; digest in hex."""

    name: str
    nbytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of a model: `tensors` by name (None where a tensor has no values), and `files`."""

    tensors: dict[str, str | None]
    files: tuple[FileDigest, ...] = ()


@dataclass(slots=True)
class _Span:
    """Stored bytes that are the values of the tensors called `names`, and their hasher."""

    offset: int
    nbytes: int
    hasher: Hasher
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    """What is to be read: spans of each file by its path, and tensors read through extents."""

    sources: dict[str, Source] = field(default_factory=dict)
    spans: dict[str, list[_Span]] = field(default_factory=dict)
    loose: list[Tensor] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def digest_model(
    checkpoint: Checkpoint,
    algorithm: str = "sha256",
    *,
    files: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Digests:
    """Digests of every tensor and, with `files`, of every file of `checkpoint`.

    jobs: threads, all cores by default. Memory: 16 MiB for each two threads. UnsupportedError where
    tensors repeat a few stored bytes beyond all measure.
    """
    jobs = jobs or os.cpu_count() or 1
    plan = _make_plan(checkpoint, algorithm)
    paths = list(checkpoint.files) if files else []
    descriptors = Descriptors()
    for path in paths:
        if os.path.realpath(path) not in plan.sources:
            plan.sources[os.path.realpath(path)] = FileSource(path, descriptors=descriptors)
    done = _Done(_total_work(plan, paths), progress)
    found: dict[str, str | None] = dict.fromkeys(plan.absent)
    hashed = _digest_files(plan, paths, algorithm, jobs, done)
    with ThreadPoolExecutor(jobs) as pool:
        read = {os.path.realpath(path) for path in paths}
        rest = [
            (plan.sources[key], span)
            for key, spans in plan.spans.items()
            if key not in read
            for span in spans
        ]
        for nbytes in pool.map(lambda work: _hash_span(*work), rest):
            done.add(nbytes)
        loose = pool.map(lambda tensor: digest_values(tensor, algorithm), plan.loose)
        for tensor, digest in zip(plan.loose, loose, strict=True):
            found[tensor.name] = digest
            done.add(tensor.nbytes)
    for spans in plan.spans.values():
        for span in spans:
            found |= dict.fromkeys(span.names, span.hasher.hexdigest())
    base = model_folder(checkpoint.path)
    return Digests(
        {name: found[name] for name in checkpoint.tensors},
        tuple(
            FileDigest(relative_name(path, base), plan.sources[os.path.realpath(path)].size, digest)
            for path, digest in zip(paths, hashed, strict=True)
        ),
    )


def digest_file(path: str, algorithm: str) -> tuple[int, str]:
    """(size in bytes, digest) of one file, whatever it holds."""
    source = FileSource(path)
    return source.size, _hash_file(source, [], algorithm, False, _Done(0, None))


def digest_values(tensor: Tensor, algorithm: str) -> str:
    """The digest of one tensor through its extent, in blocks."""
    hasher = new_hasher(algorithm)
    hasher.update(header(tensor.dtype, tensor.shape))
    exact = _as_stored_bits(tensor)
    if exact is not None:
        for block in exact:
            hasher.update(block)
    else:
        for values in tensor.blocks(VALUE_BYTES):
            update_values(hasher, values, tensor.dtype)
    return hasher.hexdigest()


def model_folder(path: str) -> str:
    """The folder that names of files are relative to: the model itself where it is a folder.

    Links are not followed: files of a cache of downloads are links to others of meaningless names.
    """
    full = os.path.abspath(path)
    return full if os.path.isdir(full) else os.path.dirname(full)


def relative_name(path: str, folder: str) -> str:
    """`path` relative to `folder`, with "/" on every system."""
    return os.path.relpath(os.path.abspath(path), folder).replace(os.sep, "/")


class _Done:
    """Counts bytes dealt with, for progress."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, nbytes: int) -> None:
        """So many bytes more; threads may lose a count, which only a progress line would show."""
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _make_plan(checkpoint: Checkpoint, algorithm: str) -> _Plan:
    """Where each tensor's bytes are; those of equal place, type and shape are hashed once."""
    plan = _Plan()
    known: dict[tuple[str, int, int, bytes], _Span] = {}
    for tensor in checkpoint:
        extent = tensor.extent
        if isinstance(extent, Absent):
            plan.absent.append(tensor.name)
            continue
        _refuse_expansion(tensor)
        try:
            raw = extent.raw_span()
        except WtoolError as error:
            raise error.locate(tensor=tensor.name) from error.__cause__
        source, offset = absolute(*raw[:2]) if raw is not None else (None, 0)
        if raw is None or not isinstance(source, FileSource):
            plan.loose.append(tensor)
            continue
        key = os.path.realpath(source.name)
        plan.sources.setdefault(key, source)
        text = header(tensor.dtype, tensor.shape)
        span = known.get((key, offset, raw[2], text))
        if span is None:
            span = _Span(offset, raw[2], new_hasher(algorithm))
            span.hasher.update(text)
            known[key, offset, raw[2], text] = span
            plan.spans.setdefault(key, []).append(span)
        span.names.append(tensor.name)
    for key, spans in plan.spans.items():
        spans.sort(key=lambda span: (span.offset, span.nbytes))
        _refuse_overlaps(plan.sources[key], spans)
    return plan


def _refuse_expansion(tensor: Tensor) -> None:
    """UnsupportedError for a view of far more elements than stored: it would take for ever."""
    if tensor.is_expanded:
        raise UnsupportedError(
            "tensor repeats a few stored bytes too often to take a digest",
            tensor=tensor.name,
            expected=f"at most {MAX_EXPANSION} x what is stored",
            found=f"{tensor.nbytes} bytes",
        )


def _refuse_overlaps(source: Source, spans: Iterable[_Span]) -> None:
    """UnsupportedError where tensors overlap so much that hashing them all would take for ever."""
    total = sum(span.nbytes for span in spans)
    if total > MAX_EXPANSION_BYTES and total > MAX_EXPANSION * source.size:
        raise UnsupportedError(
            "tensors share the same bytes too often to take digests",
            path=source.name,
            expected=f"at most {MAX_EXPANSION} x {source.size} bytes",
            found=total,
        )


def _total_work(plan: _Plan, paths: Iterable[str]) -> int:
    read = {os.path.realpath(path) for path in paths}
    in_files = sum(plan.sources[key].size for key in read)
    spans = sum(s.nbytes for key, found in plan.spans.items() if key not in read for s in found)
    return in_files + spans + sum(tensor.nbytes for tensor in plan.loose)


def _digest_files(
    plan: _Plan, paths: list[str], algorithm: str, jobs: int, done: _Done
) -> list[str]:
    """The digests of the files, in order; the spans in them are hashed on the way."""

    def digest(path: str) -> str:
        key = os.path.realpath(path)
        return _hash_file(plan.sources[key], plan.spans.get(key, []), algorithm, jobs > 1, done)

    if len(paths) == 1:
        return [digest(paths[0])]
    # Each file keeps two threads busy.
    with ThreadPoolExecutor(max(1, jobs // 2)) as pool:
        return list(pool.map(digest, paths))


def _hash_file(
    source: Source, spans: list[_Span], algorithm: str, threaded: bool, done: _Done
) -> str:
    """The digest of a whole file; every block is also given to the hashers of `spans`, by offset.

    threaded: a second thread hashes the spans, at most BLOCKS blocks behind.
    """
    hasher = new_hasher(algorithm)
    feed = _SpanFeed(spans)
    if not spans or not threaded:
        buffer = memoryview(bytearray(min(BLOCK_BYTES, source.size)))
        for start, block in _read_blocks(source, [buffer]):
            hasher.update(block)
            feed.give(start, block)
            done.add(len(block))
        return hasher.hexdigest()
    count = min(BLOCKS, -(-source.size // BLOCK_BYTES))
    buffers = [memoryview(bytearray(min(BLOCK_BYTES, source.size))) for _ in range(count)]
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as second:
        for start, block in _read_blocks(source, buffers):
            waiting.append(second.submit(feed.give, start, block))
            hasher.update(block)
            done.add(len(block))
            if len(waiting) == len(buffers):
                # The buffer that is filled next must be free.
                waiting.popleft().result()
        for future in waiting:
            future.result()
    return hasher.hexdigest()


def _read_blocks(source: Source, buffers: list[memoryview]) -> Iterator[tuple[int, memoryview]]:
    """(offset, bytes) of all of `source` in order; the buffers are filled in turns."""
    for number, start in enumerate(range(0, source.size, BLOCK_BYTES)):
        block = buffers[number % len(buffers)][: min(BLOCK_BYTES, source.size - start)]
        source.read_into(start, block)
        yield start, block


class _SpanFeed:
    """Hands the blocks of a file, given in order, to the hashers of the spans in it."""

    def __init__(self, spans: list[_Span]) -> None:
        self._coming = deque(spans)
        self._open: list[_Span] = []

    def give(self, start: int, block: memoryview) -> None:
        """The bytes from offset `start` on."""
        stop = start + len(block)
        while self._coming and self._coming[0].offset < stop:
            self._open.append(self._coming.popleft())
        for span in self._open:
            low = max(span.offset, start)
            high = min(span.offset + span.nbytes, stop)
            if low < high:
                span.hasher.update(block[low - start : high - start])
        self._open = [span for span in self._open if span.offset + span.nbytes > stop]


def _hash_span(source: Source, span: _Span) -> int:
    """Hash one span by itself; returns its size."""
    sizes = [min(VALUE_BYTES, span.nbytes - a) for a in range(0, span.nbytes, VALUE_BYTES)]
    buffer = memoryview(bytearray(min(VALUE_BYTES, span.nbytes)))
    for offset, size in zip(accumulate(sizes, initial=span.offset), sizes, strict=False):
        source.read_into(offset, buffer[:size])
        span.hasher.update(buffer[:size])
    return span.nbytes


def _as_stored_bits(tensor: Tensor) -> Iterator[bytes] | None:
    """The bytes of a complex32 view, each pair of halves read as one 32-bit integer.

    Its carrier is complex64, and processors that convert halves themselves (ARM, F16C) make a
    signalling NaN a quiet one on the way. None for every other tensor.
    """
    extent = tensor.extent
    if tensor.dtype.name != "complex32" or type(extent) is not Strided:
        return None
    bits = Strided(
        extent.source,
        extent.base,
        extent.storage_nbytes,
        DTYPES["uint32"],
        extent.shape,
        first=extent.first,
        strides=extent.strides,
    )
    return _half_pairs(bits, extent)


def _half_pairs(bits: Strided, extent: Strided) -> Iterator[bytes]:
    # The imaginary half is the upper one; conjugation and negation flip sign bits.
    flips = (extent.conj << 31) ^ (0x8000_8000 if extent.neg else 0)
    for block in bits.blocks(VALUE_BYTES):
        pairs = block.view("<u4")
        if extent.big_endian:
            pairs = pairs.view("<u2").byteswap().view("<u4")
        yield (pairs ^ pairs.dtype.type(flips)).tobytes()
