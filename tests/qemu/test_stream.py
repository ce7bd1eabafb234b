"""The stream reader on streams of a real QEMU: counts as QEMU's, and the guest's memory itself."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plain_stream import plain_events
from tests.qemu.testguest_vm import GuestVm
from tests.stream_fast import fast_events
from vmferry.stream.items import Blocks, EndOfIteration, Item, Pages, Stage3, StreamError
from vmferry.stream.reader import StreamReader
from vmferry.units import MIB

CHUNK = 1 << 20
DIMM = 32 * MIB
# A VGA's memory and a DIMM beside the main memory.
MORE_BLOCKS = (
    *("-device", "VGA,vgamem_mb=8"),
    *("-m", "slots=2,maxmem=1G"),
    *("-object", f"memory-backend-ram,id=more,size={DIMM}"),
    *("-device", "pc-dimm,memdev=more"),
)
# Slower than the sender and faster than the writer: several passes, and an end.
BANDWIDTH = 64 * MIB
WRITER = {"working_set": 12 * MIB, "write_rate": 10 * MIB, "content": "one-word"}
# Main memory without what the firmware and the VGA lie over.
BASE = MIB


def chunks(stream: Path) -> Iterator[bytes]:
    with stream.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def saved(vm: GuestVm, *capabilities: str) -> tuple[Path, dict[str, Any]]:
    """Migrate into a file; the file, and what QEMU says of the migration."""
    stream, socket_path = vm.folder / "stream", vm.folder / "sink.sock"
    rows = [{"capability": name, "state": True} for name in capabilities]
    if rows:
        vm.ask("migrate-set-capabilities", capabilities=rows)
    vm.ask("migrate-set-parameters", **{"max-bandwidth": BANDWIDTH, "downtime-limit": 100})
    if "return-path" in capabilities:
        threading.Thread(target=sink, args=(listening(socket_path), stream)).start()
        vm.ask("migrate", uri=f"unix:{socket_path}")
    else:
        vm.ask("migrate", uri=f"exec:cat>{stream}")
    while True:
        reply: dict[str, Any] = vm.ask("query-migrate")
        assert reply["status"] != "failed", reply
        if reply["status"] == "completed" and reply["total-time"]:
            return stream, reply
        time.sleep(0.05)


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def sink(listener: socket.socket, stream: Path) -> None:
    """A destination that only says on the return path that it has had enough."""
    reader = StreamReader()
    connection, _ = listener.accept()
    listener.close()
    with connection, stream.open("wb", buffering=0) as file:
        while True:
            try:
                data = connection.recv(CHUNK)
            except TimeoutError:  # the device state is over too
                connection.sendall(struct.pack(">HHI", 1, 4, 0))  # MIG_RP_MSG_SHUT, no error
                connection.settimeout(None)
                continue
            if not data:
                return
            file.write(data)
            waits = not reader.done
            for _item in reader.feed(data):
                pass
            if waits and reader.done:
                connection.settimeout(0.5)


def read(stream: Path) -> tuple[StreamReader, list[Item]]:
    reader = StreamReader()
    items = [item for chunk in chunks(stream) for item in reader.feed(chunk)]
    reader.close()
    return reader, items


@pytest.mark.parametrize("capabilities", [(), ("xbzrle",), ("return-path", "postcopy-ram")])
def test_a_completed_migration_is_counted_page_for_page(
    tmp_path: Path, capabilities: tuple[str, ...]
) -> None:
    trace = ("-trace", "save_xbzrle_page_skipping", "-D", str(tmp_path / "trace.log"))
    with GuestVm(tmp_path, *MORE_BLOCKS, *trace, **WRITER) as vm:
        stream, reply = saved(vm, *capabilities)
        memory = tmp_path / "memory"
        size = vm.ask("query-memory-size-summary")["base-memory"] - BASE
        vm.ask("pmemsave", val=BASE, size=size, filename=str(memory))
        reader, items = read(stream)
        counts = reader.counts
        ram = reply["ram"]
        assert (counts.ordinary, counts.zero) == (ram["normal"], ram["duplicate"])
        assert (counts.xbzrle > 0) == ("xbzrle" in capabilities)
        if "xbzrle" in capabilities:
            skipped = (tmp_path / "trace.log").read_text().count("save_xbzrle_page_skipping")
            assert_deltas(items, reply["xbzrle-cache"], skipped)
        assert_well_formed(items, ram)
        assert_memory(items, np.fromfile(memory, np.uint8))
    assert fast_events(chunks(stream)) == plain_events(stream.read_bytes())


def assert_deltas(items: list[Item], cache: dict[str, Any], skipped: int) -> None:
    """QEMU counts a page that it found unchanged or could not encode among its XBZRLE pages."""
    runs = [item for item in items if isinstance(item, Pages) and item.kind == "xbzrle"]
    pages = sum(len(run.offsets) for run in runs)
    assert pages == cache["pages"] - cache["overflow"] - skipped
    # It counts no flags and offset, and of a page that it could not encode all.
    sent = sum(run.stream_bytes - 8 * len(run.offsets) for run in runs)
    assert sent == cache["bytes"] - 4096 * cache["overflow"]


def assert_well_formed(items: list[Item], ram: dict[str, Any]) -> None:
    blocks = items[0]
    assert isinstance(blocks, Blocks)
    names = {block.name for block in blocks.blocks}
    assert {"pc.ram", "more"} < {name.rpartition("/")[2] for name in names}
    assert any(name.endswith("vga.vram") for name in names)
    assert sum(block.size for block in blocks.blocks) == ram["total"]
    stage3 = [at for at, item in enumerate(items) if isinstance(item, Stage3)]
    assert len(stage3) == 1
    last = [item for item in items[stage3[0] + 1 :] if not isinstance(item, Pages)]
    assert [type(item) for item in last] == [EndOfIteration]
    assert ram["dirty-sync-count"] > 2


def assert_memory(items: list[Item], memory: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """The stream's pages, put in their places, are the memory of the guest."""
    main: np.ndarray[Any, np.dtype[np.uint8]] = np.zeros(BASE + len(memory), np.uint8)
    for run in items:
        if not isinstance(run, Pages) or run.block.name != "pc.ram":
            continue
        for number, offset in enumerate(run.offsets.tolist()):
            page = main[offset : offset + 4096]
            if run.kind == "zero":
                page[:] = 0
            elif run.data is not None:
                page[:] = run.data[number]
            else:
                apply_delta(page, run.encoded[number])
    wrong = np.flatnonzero(main[BASE:] != memory)
    assert not len(wrong), f"{len(wrong)} bytes differ, the first at {BASE + wrong[0]:#x}"


def apply_delta(page: np.ndarray[Any, np.dtype[np.uint8]], delta: bytes) -> None:
    """XBZRLE (docs/devel/migration of QEMU): unchanged bytes to skip, then changed ones, …"""
    at = place = 0
    changed = False
    while at < len(delta):
        length = shift = 0
        while True:
            byte = delta[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if changed:
            page[place : place + length] = np.frombuffer(delta, np.uint8, length, at)
            at += length
        place += length
        changed = not changed


def test_with_ignore_shared_blocks_have_addresses(tmp_path: Path) -> None:
    shared = f"memory-backend-memfd,id=more,size={DIMM},share=on"
    more = [word if not word.startswith("memory-backend") else shared for word in MORE_BLOCKS]
    with GuestVm(tmp_path, *more, **WRITER) as vm:
        stream, reply = saved(vm, "x-ignore-shared")
    reader, items = read(stream)
    counts = reader.counts
    assert (counts.ordinary, counts.zero) == (reply["ram"]["normal"], reply["ram"]["duplicate"])
    blocks = items[0]
    assert isinstance(blocks, Blocks)
    assert DIMM in [block.size for block in blocks.blocks]
    assert not [i for i in items if isinstance(i, Pages) and i.block.name.endswith("more")]
    assert fast_events(chunks(stream)) == plain_events(stream.read_bytes())


def test_a_compressed_page_is_an_error_where_it_is(tmp_path: Path) -> None:
    with GuestVm(tmp_path, **WRITER) as vm:
        stream, _ = saved(vm, "compress")
    with pytest.raises(StreamError, match="compress") as caught:
        read(stream)
    data = stream.read_bytes()
    assert plain_events(data)[-1] == ("wrong", caught.value.offset)
    assert data[caught.value.offset + 6] & 0x01
