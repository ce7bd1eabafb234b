"""Reads QEMU's migration stream as it comes in: RAM blocks, pages, and where stage 3 begins.

Sans-I/O, in the manner of h11: bytes go in at `feed`, items come out. The stream is a sequence of
records (a header, a mark, one page …). Each state reads one record, or a run of like pages, or
finds that some of it is not there yet; what is over then waits for the next feed.

    header -> section <-> configuration, commands
              section  -> ram … -> footer -> section       one method each

Device state has no lengths, so nothing after RAM can be read without knowing every device: the
reader is `done` there. Whatever it does not know is a StreamError at the first byte of the record.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from vmferry.stream import format as f
from vmferry.stream.format import Cursor, Incomplete, Wrong, shown
from vmferry.stream.items import Counts, EndOfIteration, Item, Stage3, StreamError
from vmferry.stream.ram import Ram
from vmferry.stream.setup import (
    Setup,
    checked_page_size,
    read_command,
    read_configuration,
    read_subsection,
)


class StreamReader:
    """Reads one stream from its first byte on.

    `page_size` (bytes) is that of the target, for streams that do not say it: 4096 on x86.
    A stream of QEMU 7.2 with multifd has no mark of it: do not read the pages' counts from one.

    Raises:
        StreamError: no target has pages of this size.
    """

    def __init__(self, page_size: int = 4096) -> None:
        self.offset = 0  # the first byte that is not read yet
        self.done = False  # the device state is reached; bytes from here on are not looked at
        self._setup = Setup(page_size)
        self._state: Callable[[Cursor], Item | None] = self._header
        self._rest = bytearray()  # of a record that is not complete, and how long it is at least
        self._need = 1
        self._error: StreamError | None = None
        self._ram: Ram | None = None
        self._ram_id = 0
        self._ram_ended = False
        self._in_stage3 = False
        self._in_configuration = False
        try:
            checked_page_size(page_size)
        except Wrong as wrong:
            raise StreamError(str(wrong), 0) from None

    @property
    def counts(self) -> Counts:
        """The pages read so far."""
        return self._ram.counts if self._ram else Counts()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Item]:
        """Read on. Iterate to the end: the reading is done meanwhile.

        Raises:
            StreamError: after the items before it, and again at each further call.
        """
        if self._error:
            raise self._error
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view) and not self.done:
            if self._rest:
                # Only the record that was cut is put together; all else stays where it is.
                end = at + self._need - len(self._rest)
                self._rest += view[at:end]
                if end > len(view):
                    return
                at, part = end, memoryview(bytes(self._rest))
            else:
                at, part = len(view), view[at:]
            read = yield from self._records(part)
            self._rest = bytearray(part[read:])

    def close(self) -> None:
        """The input has ended.

        Raises:
            StreamError: it ended before the device state, or was wrong before.
        """
        if self._error:
            raise self._error
        if not self.done:
            where = "inside a record" if self._rest else "before the device state"
            raise StreamError(f"it ends here, {where}", self.offset)

    def _records(self, part: memoryview) -> Generator[Item, None, int]:
        """Read what is complete; returns how many bytes that were."""
        c = Cursor(part)
        while not self.done:
            try:
                item = self._state(c)
            except Incomplete as short:
                self._need = short.need
                break
            except Wrong as wrong:
                self._error = StreamError(str(wrong), self.offset)
                raise self._error from None
            self.offset += c.at - c.mark
            c.mark = c.at
            if item is not None:
                yield item
        return c.mark

    def _header(self, c: Cursor) -> None:
        magic = c.be32()
        if magic == f.MULTIFD_MAGIC:
            raise Wrong("this is a further channel of multifd, not the migration stream")
        if magic != f.MAGIC:
            raise Wrong(f"it begins with 0x{magic:08x}, as no migration stream does")
        version = c.be32()
        if version != f.VERSION:
            raise Wrong(f"version {version}, and only {f.VERSION} is known")
        self._state = self._first

    def _first(self, c: Cursor) -> Item | None:
        """The configuration, which old machine types do not send."""
        if c.peek8() != f.CONFIGURATION:
            self._state = self._section
            return self._section(c)
        c.u8()
        read_configuration(c)
        self._in_configuration = True
        self._state = self._section
        return None

    def _section(self, c: Cursor) -> Item | None:
        """What stands between two sections of RAM, or the head of one."""
        mark = c.u8()
        if mark == f.SUBSECTION and self._in_configuration:
            read_subsection(c, self._setup)
            return None
        item: Item | None = None
        if mark == f.COMMAND:
            item = self._command(c)
        elif mark == f.SECTION_START:
            self._start(c)
        elif mark in (f.SECTION_PART, f.SECTION_END):
            item = self._continue(c, ends=mark == f.SECTION_END)
        elif mark in (f.SECTION_FULL, f.EOF):
            self._devices(c, mark)
        else:
            raise Wrong(f"0x{mark:02x} begins no section")
        self._in_configuration = False
        return item

    def _command(self, c: Cursor) -> Item | None:
        switchover = read_command(c, self._setup, ram_seen=self._ram is not None)
        if not switchover:
            return None
        if self._ram is None or self._in_stage3:
            raise Wrong("the switchover is announced where it cannot begin")
        self._in_stage3 = True
        return Stage3(self.offset, "the switchover is announced")

    def _start(self, c: Cursor) -> None:
        identifier = c.be32()
        name = c.name()
        instance, version = c.be32(), c.be32()
        if name != b"ram":
            raise Wrong(f"section '{shown(name)}', of which only QEMU knows how long it is")
        if (instance, version) != (0, f.RAM_VERSION):
            raise Wrong(f"RAM section of version {version}, and only {f.RAM_VERSION} is known")
        if self._ram is not None:
            raise Wrong("a second start of RAM")
        self._ram = Ram(self._setup)
        self._ram_id = identifier
        self._state = self._pages

    def _continue(self, c: Cursor, ends: bool) -> Item | None:
        identifier = c.be32()
        if self._ram is None or self._ram_ended or identifier != self._ram_id:
            raise Wrong(f"a further part of section {identifier}, which is not under way")
        self._state = self._pages
        if not ends:
            return None
        self._ram_ended = True
        if self._in_stage3:
            return None
        self._in_stage3 = True
        return Stage3(self.offset, "the last section of RAM")

    def _devices(self, c: Cursor, mark: int) -> None:
        """A section of device state, or the end of the stream: neither comes before RAM's end."""
        if not self._ram_ended:
            what = "the end" if mark == f.EOF else "device state, which has no length,"
            raise Wrong(f"{what} before the end of RAM")
        c.at = c.mark
        self.done = True

    def _pages(self, c: Cursor) -> Item | None:
        assert self._ram is not None
        item = self._ram.record(c)
        if not isinstance(item, bool):
            return item
        if not item:
            return None
        self._state = self._footer
        return EndOfIteration(self.offset + c.at - c.mark)

    def _footer(self, c: Cursor) -> None:
        mark = c.u8()
        if mark != f.SECTION_FOOTER:
            raise Wrong(f"0x{mark:02x} where the footer of a section of RAM must be")
        identifier = c.be32()
        if identifier != self._ram_id:
            raise Wrong(f"the footer of section {identifier} after section {self._ram_id}")
        self._state = self._section
