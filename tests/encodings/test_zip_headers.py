"""Local headers: read in few calls, and checked against the directory."""

from zip_bytes import Entry, build

from wtool.encodings.zip_directory import read_directory
from wtool.encodings.zip_headers import MAX_GAP_BYTES, WINDOW_BYTES, read_starts
from wtool.sources import BytesSource

FAR = MAX_GAP_BYTES + 1


class CountingList(list):
    """A list that counts how often one of its items is taken."""

    taken = 0

    def __getitem__(self, index):
        self.taken += 1 if isinstance(index, int) else len(range(*index.indices(len(self))))
        return super().__getitem__(index)

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))


class CountingSource(BytesSource):
    """Bytes in memory that note what was read of them."""

    def __init__(self, data):
        super().__init__(data, "model.pth")
        self.reads = []

    def read_into(self, offset, buffer):
        self.reads.append((offset, len(memoryview(buffer))))
        super().read_into(offset, buffer)


def test_neighbours_are_read_together_and_what_lies_far_apart_alone():
    sizes = [10, MAX_GAP_BYTES - 40, FAR, 10, WINDOW_BYTES * 2, 0]
    data = build([Entry(b"a/%d" % i, bytes(size)) for i, size in enumerate(sizes)])
    source = CountingSource(data)
    directory = read_directory(source)
    source.reads.clear()
    directory.check_headers()
    offsets = [member.header_offset for member in directory.entries]
    assert directory.starts == [offset + 33 for offset in offsets]
    assert source.reads == [
        (offsets[0], offsets[2] + 33 - offsets[0]),
        (offsets[3], offsets[4] + 33 - offsets[3]),
        (offsets[5], 33),
    ]


def test_headers_that_lie_far_apart_are_looked_at_a_few_times_each():
    data = build([Entry(b"a/%d" % i, bytes(FAR)) for i in range(300)])
    source = BytesSource(data, "model.pth")
    members = CountingList(read_directory(source).entries)
    starts = read_starts(source, members)
    assert starts == [m.header_offset + 30 + len(m.raw_name) for m in list.__iter__(members)]
    assert members.taken < 5 * len(members)
