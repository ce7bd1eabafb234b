"""What the stream reader says of a stream, in the words of the plain one (plain_stream.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.plain_stream import Event
from vmferry.stream.items import Blocks, EndOfIteration, Item, Pages, Stage3, StreamError
from vmferry.stream.reader import StreamReader


def fast_events(chunks: Iterable[bytes], page_size: int = 4096) -> list[Event]:
    """All that is in a stream which comes in these chunks."""
    reader = StreamReader(page_size)
    found: list[Event] = []
    try:
        for chunk in chunks:
            for item in reader.feed(chunk):
                found += _events(item)
    except StreamError as error:
        return [*found, ("wrong", error.offset)]
    _check_counts(reader, found)
    try:
        reader.close()
    except StreamError as error:
        return [*found, ("cut", error.offset)]
    return [*found, ("done", reader.offset)]


def _events(item: Item) -> Iterator[Event]:
    match item:
        case Blocks(blocks):
            rows = ((b.name, b.size, b.page_size, b.backing_page_size) for b in blocks)
            yield ("blocks", tuple(rows))
        case EndOfIteration(offset):
            yield ("end", offset)
        case Stage3(offset):
            yield ("stage3", offset)
        case Pages():
            yield from _pages(item)


def _pages(run: Pages) -> Iterator[Event]:
    """Each page; the bytes of the run are the first's, which alone may name its block."""
    contents = [b""] * len(run.offsets)
    overhead = 9
    if run.data is not None:
        contents = [row.tobytes() for row in run.data]
        overhead = 8
    elif run.sizes is not None:
        contents = list(run.encoded)
        assert [len(delta) for delta in contents] == run.sizes.tolist()
        overhead = 11
    sizes = [overhead + len(content) for content in contents]
    named = run.stream_bytes - sum(sizes)
    assert 0 <= named <= 256
    sizes[0] += named
    for offset, size, content in zip(run.offsets.tolist(), sizes, contents, strict=True):
        yield ("page", run.kind, run.block.name, offset, size, content)


def _check_counts(reader: StreamReader, found: list[Event]) -> None:
    pages = [event for event in found if event[0] == "page"]
    counts = reader.counts
    for kind in "zero", "ordinary", "xbzrle":
        assert getattr(counts, kind) == sum(page[1] == kind for page in pages)
    assert counts.bytes == sum(page[4] for page in pages)
