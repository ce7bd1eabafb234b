"""Looks into pages beside the stream: a thread behind a bounded queue that never holds it up.

The stream's side asks for a buffer, fills it and hands it over; where all buffers are under way it
gets none and goes on. numpy and zstandard release Python's lock while they work.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Task = TypeVar("Task")
Buffer = NDArray[np.uint8]

# A buffer is at most so large: beyond, larger ones are no faster.
_BUFFER_BYTES = 1024**2
_FEWEST = 4


class Analyst(Generic[Task]):
    """Calls `analyse` with tasks, in order, in a thread of its own; `budget` bytes of buffers.

    `cpu_share` is the most of one core that the thread takes. Without a thread (`inline`) a task
    is done when it is submitted, and there is always a buffer. `failure` is what `analyse`
    raised first.
    """

    def __init__(
        self,
        analyse: Callable[[Task], None],
        page_size: int,
        budget: int,
        *,
        cpu_share: float = 1.0,
        inline: bool = False,
    ) -> None:
        self._analyse = analyse
        self._cpu_share = cpu_share
        pages = max(1, min(_BUFFER_BYTES, budget // _FEWEST) // page_size)
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        count = 1 if inline else max(2, budget // (pages * page_size))
        for _ in range(count):
            self._free.put(np.empty((pages, page_size), np.uint8))
        self.nbytes = count * pages * page_size
        self.failure: Exception | None = None
        self._closing = False
        self._tasks: queue.SimpleQueue[tuple[Task, Buffer] | None] = queue.SimpleQueue()
        self._thread = None if inline else threading.Thread(target=self._work, daemon=True)
        if self._thread is not None:
            self._thread.start()

    def buffer(self) -> Buffer | None:
        """A buffer for pages, a row each; None where all are under way."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return None

    def submit(self, task: Task, buffer: Buffer) -> None:
        """Hand over a task and the buffer that it uses."""
        if self._thread is None:
            self._do(task, buffer)
        else:
            self._tasks.put((task, buffer))

    def close(self) -> None:
        """Have what is under way done, and end the thread. Raises what `analyse` raised."""
        self._closing = True
        if self._thread is not None and self._thread.is_alive():
            self._tasks.put(None)
            self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _work(self) -> None:
        while (next_one := self._tasks.get()) is not None:
            before = time.thread_time()
            self._do(*next_one)
            if not self._closing:
                time.sleep((time.thread_time() - before) * (1 / self._cpu_share - 1))

    def _do(self, task: Task, buffer: Buffer) -> None:
        try:
            self._analyse(task)
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self._free.put(buffer)
