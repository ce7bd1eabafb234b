"""The process at the other end of a rehearsal: takes QEMU's stream, looks at it, throws it away.

It must never let the VM be taken over. So it answers nothing, and hangs up as soon as it reads
anything of stage 3, meets bytes that it does not know, or loses its owner: QEMU then takes the
migration for failed, and the VM runs on by itself. If this process dies, the kernel hangs up.

Started as `python -m vmferry.rehearsal.sink DESCRIPTOR…`, with one connected socket a channel, the
main one first. From standard input it takes `{"sent_pages": N}` at the begin of each pass; its end
means that the owner is gone, or wants the result. It writes `{"ready": true}` and, at the end,
`{"end": …}` to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Sequence

from vmferry.errors import VmferryError
from vmferry.rehearsal.stream_end import How, StreamEnd
from vmferry.stream.items import Blocks, Pages, Stage3, StreamError
from vmferry.stream.reader import StreamReader
from vmferry.stream.xray import XRay

_BUFFER_BYTES = 1024 * 1024
# Who is told to end has this long to tell its result; nobody may wait for it for ever.
_LAST_SECONDS = 8.0


class Sink:
    """Reads all channels of one stream until one of them ends."""

    def __init__(self, channels: Sequence[socket.socket]) -> None:
        self._channels = channels
        self._reader = StreamReader()
        self._marks: deque[int] = deque()
        self._xray: XRay | None = None
        self._other_bytes = 0
        self._told = False
        self._problems: list[str] = []

    def mark(self, sent_pages: int) -> None:
        """A pass began when QEMU had sent so many pages. From any thread."""
        self._marks.append(sent_pages)

    def hang_up(self) -> None:
        """End the stream, for both directions. From any thread; may be done twice."""
        self._told = True
        _hang_up(self._channels)

    def run(self) -> StreamEnd:
        """Read to the end; the channels are closed when this returns."""
        how, why = self._read()
        _hang_up(self._channels)
        for channel in self._channels:
            channel.close()
        return self._result(how, why)

    def _read(self) -> tuple[How, str]:
        buffer = bytearray(_BUFFER_BYTES)
        view = memoryview(buffer)
        with selectors.DefaultSelector() as selector:
            for one in self._channels:
                selector.register(one, selectors.EVENT_READ, one)
            while True:
                for key, _ in selector.select():
                    channel: socket.socket = key.data
                    try:
                        count = channel.recv_into(buffer)
                    except OSError:
                        count = 0
                    if count == 0:
                        return ("told" if self._told else "closed"), ""
                    if channel is not self._channels[0]:
                        self._other_bytes += count
                        continue
                    try:
                        stage3 = self._take(view[:count])
                    except StreamError as error:
                        return "unreadable", error.message
                    if stage3 is not None:
                        return "switchover", stage3.what

    def _take(self, data: memoryview) -> Stage3 | None:
        """Look at some of the main channel. Raises StreamError."""
        while self._marks and self._xray is not None:
            self._xray.mark_pass(self._marks.popleft())
        for item in self._reader.feed(data):
            if isinstance(item, Stage3):
                return item
            try:
                if isinstance(item, Blocks):
                    self._xray = XRay(sum(block.size for block in item.blocks))
                elif isinstance(item, Pages) and self._xray is not None:
                    self._xray.see(item)
            except StreamError:
                raise
            except VmferryError as error:
                # The rehearsal does not hang on it.
                self._xray = None
                self._problems.append(f"the pages were not looked into: {error.message}")
        return None

    def _result(self, how: How, why: str) -> StreamEnd:
        counts = self._reader.counts
        xray = None
        if self._xray is not None:
            while self._marks:
                self._xray.mark_pass(self._marks.popleft())
            self._xray.close()
            xray = self._xray.result().to_json()
        return StreamEnd(
            how=how,
            why=why,
            zero_pages=counts.zero,
            ordinary_pages=counts.ordinary,
            bytes=self._reader.offset,
            other_bytes=self._other_bytes,
            xray=xray,
            problems=tuple(self._problems),
        )


def _hang_up(channels: Sequence[socket.socket]) -> None:
    for channel in channels:
        with contextlib.suppress(OSError):
            channel.shutdown(socket.SHUT_RDWR)


def _obey(sink: Sink) -> None:
    """Take what the owner says, until it is gone."""
    # Not sys.stdin: its lock may not be held by a thread when Python exits.
    try:
        with open(0, "rb", buffering=0, closefd=False) as owner:
            for line in owner:
                sink.mark(int(json.loads(line)["sent_pages"]))
    finally:
        # Whatever it said last: an owner that was killed may leave half a word.
        sink.hang_up()
        # What the result waits for may hang; the channels must not outlive the owner.
        last = threading.Timer(_LAST_SECONDS, lambda: os._exit(1))
        last.daemon = True
        last.start()


def _tell(message: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)


def _main() -> None:
    # Ctrl-C is the owner's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = Sink([socket.socket(fileno=int(number)) for number in sys.argv[1:]])
    threading.Thread(target=_obey, args=(sink,), daemon=True).start()
    _tell({"ready": True})
    _tell({"end": sink.run().to_json()})


if __name__ == "__main__":
    _main()
