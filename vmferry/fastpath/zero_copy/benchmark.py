"""vhost's copying transmit path against zero copy: which ran, and what a gigabyte cost its thread.

The guest's frames leave by a bridge into a dummy card that drops them without a look, as a real
card would send them without one. A tap, another guest or this host in its place would copy them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from vmferry.errors import VmferryError
from vmferry.fastpath.bench import vhost, wire
from vmferry.fastpath.bench.guest import Guest, Machine, need_qemu, started
from vmferry.fastpath.bench.program import image
from vmferry.fastpath.bench.rows import Row, Rows, change, spread
from vmferry.fastpath.bench.run import Benchmark, Figure, Setting
from vmferry.fastpath.collect_deep import TransmitProbes
from vmferry.host.links import attach, remove_unused_bridge

OFF, ON = "off", "on"
_SIZES = (128, 1024, 4096, 16384, 60000)
_MTU = 65000
_SINK = "vmfsink"
_ZERO_COPY, _COPY = "handle_tx_zerocopy", "handle_tx_copy"
_DONE, _COPIED_AFTER_ALL = "vhost_zerocopy_callback", "skb_copy_ubufs"
_GB = 1e9


async def _measure(case: str, setting: Setting) -> Row:
    with vhost.zero_copy(case == ON), _sink(), wire.wire(1, vhost=True) as card:
        machine = Machine(
            image(setting.folder), 1, arguments=card.arguments, descriptors=card.descriptors
        )
        async with started(machine, setting.folder / "guest") as guest:
            await guest.ask(f"card eth0 {_MTU}")
            row: Row = {}
            for size in _SIZES:
                row |= await _send(guest, size, setting.seconds)
    return row


async def _send(guest: Guest, size: int, seconds: float) -> Row:
    tids = vhost.threads(guest.pid)
    with TransmitProbes() as probes:
        calls, ran = probes.counts() or {}, vhost.seconds_run(tids)
        told = await guest.figures(f"send {seconds:g} 1 {size} eth0", seconds + 60)
        ran, last = vhost.seconds_run(tids) - ran, probes.counts() or {}
    sent = told["workers"][0]
    row: Row = {
        f"packets_{size}": sent["done"],
        f"cpu_per_gb_{size}": round(ran / (sent["bytes"] / _GB), 4) if sent["bytes"] else None,
    }
    for name in (_ZERO_COPY, _COPY, _DONE, _COPIED_AFTER_ALL):
        if name in last:
            row[f"{name}_{size}"] = sum(last[name].values()) - sum(calls.get(name, {}).values())
    return row


@contextlib.contextmanager
def _sink() -> Iterator[None]:
    """A card that drops what it gets, on the benchmark's bridge, both with a large MTU."""
    with ThreadPoolExecutor(1) as thread:  # pyroute2 brings an event loop of its own
        thread.submit(_make_sink).result()
        try:
            yield
        finally:
            thread.submit(_remove_sink).result()
            remove_unused_bridge(wire.BRIDGE)


def _make_sink() -> None:
    from pyroute2 import IPRoute

    _remove_sink()
    with IPRoute() as netlink:
        netlink.link("add", ifname=_SINK, kind="dummy")
        attach(_SINK, wire.BRIDGE, create=True)
        for name in (_SINK, wire.BRIDGE):
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], mtu=_MTU)


def _remove_sink() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=_SINK):
            netlink.link("del", index=index)


def _problem() -> str:
    if problem := need_qemu() or wire.problem() or vhost.problem():
        return problem
    try:
        with _sink():
            return ""
    except VmferryError as error:
        return error.message
    except Exception as error:  # pyroute2 has classes of its own
        return f"a dummy card cannot be made: {error}"


def _prove(rows: Rows) -> Sequence[str]:
    told = []
    for size in _SIZES:
        off, on = (spread(rows.of(case), f"cpu_per_gb_{size}") for case in (OFF, ON))
        if off is not None and on is not None:
            told.append(f"{size} bytes: vhost's CPU per GB with zero copy: {change(off, on)}")
    for case, name in ((OFF, _COPY), (ON, _ZERO_COPY)):
        calls = [row.get(f"{name}_{_SIZES[-1]}") for row in rows.of(case)]
        if calls and all(calls):
            told.append(f"{case}: the function that ran is {name}")
    return told


def _figures() -> tuple[Figure, ...]:
    titles = {
        "cpu_per_gb": "vhost CPU s per GB",
        _ZERO_COPY: "calls of handle_tx_zerocopy",
        _DONE: "sent without a copy (vhost_zerocopy_callback)",
        _COPIED_AFTER_ALL: "copied after all (skb_copy_ubufs)",
        _COPY: "calls of handle_tx_copy",
        "packets": "packets sent",
    }
    return tuple(
        Figure(f"{key}_{size}", f"{title}, {size} bytes")
        for key, title in titles.items()
        for size in _SIZES
    )


BENCHMARK = Benchmark(
    name="zero-copy",
    question="which way does vhost send, and does it spare the copy?",
    cases=(OFF, ON),
    figures=_figures(),
    problem=_problem,
    measure=_measure,
    limits=(
        "the card drops what it gets, so nothing waits for the wire, which is where zero copy has "
        "its head-of-line blocking; an emulated host counts as its CPU time what the machine below "
        "it took for others, and no memory there is slower than its cores, as a real one's is"
    ),
    prove=_prove,
)
