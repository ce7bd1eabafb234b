"""A migration's receiving end: reads the stream, or throws it away unread (the null sink)."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from bench._bench_results import Row
from vmferry.stream.reader import StreamReader

BUFFER_BYTES = 1 << 20


def drain(connection: socket.socket, reader: StreamReader | None) -> Row:
    """Take all that comes; what it was and the CPU seconds that it took."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    received = 0
    began, cpu = time.monotonic(), time.process_time()
    while size := connection.recv_into(buffer):
        received += size
        if reader is not None:
            for _ in reader.feed(buffer[:size]):
                pass
    row: Row = {
        "bytes": received,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
    }
    if reader is not None:
        reader.close()
        counts = reader.counts
        row |= {"ordinary": counts.ordinary, "zero": counts.zero, "xbzrle": counts.xbzrle}
    return row


class Sink:
    """A process with `drain` for one connection after the other on a Unix socket."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind

    def __enter__(self) -> Sink:
        words = [sys.executable, "-m", "bench._stream_sink", self._kind, str(self._path)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._line()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._path.unlink()

    def row(self) -> Row:
        """What the next connection brought, when it has ended."""
        row: Row = json.loads(self._line())
        return row

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self._kind} sink has ended")
        return line


def main() -> None:
    """Serve until killed; a first line says that the socket is there."""
    kind, path = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                row = drain(connection, StreamReader() if kind == "reader" else None)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
