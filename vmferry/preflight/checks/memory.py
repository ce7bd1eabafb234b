"""Conditions on the guest's RAM: its size on both sides, what it lies in, and room for it."""

from __future__ import annotations

from vmferry.preflight.checks.common import names, shown, sizes, this_host, told
from vmferry.preflight.facts import Backend, Facts, Qemu, RamBlock, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning
from vmferry.units import format_size

_PAGE = 4096


@check(
    "memory-size",
    "a stream of one size does not load into another; QEMU says so only when the move has begun",
)
def memory_size(facts: Facts) -> Answer:
    source, destination = facts.pair()
    evidence, other = [], []
    for what, ours, theirs in (
        ("RAM", source.memory, destination.memory),
        ("plugged RAM", source.plugged_memory, destination.plugged_memory),
        ("highest RAM (maxmem)", source.max_memory, destination.max_memory),
    ):
        texts = sizes(
            told(ours, source, "memory"),
            told(theirs, destination, "memory"),
        )
        evidence.append(Evidence(f"query-memory-size-summary: {what}", *texts))
        if ours != theirs:
            other.append(f"{what} is {texts[0]} at the source, {texts[1]} at the destination")
    if other:
        return blocker(
            "; ".join(other),
            *evidence,
            remedy="start the destination with the source's -m, and with its DIMMs",
        )
    return fine(f"RAM: {evidence[0].source}", *evidence)


@check(
    "ram-blocks",
    "the stream names each piece of memory, ROMs too: one that the destination lacks or has in "
    "another size ends the load. ROMs change size with the firmware packages of a distribution",
)
def ram_blocks(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = told(source.ram_blocks, source, "ram_blocks")
    theirs = told(destination.ram_blocks, destination, "ram_blocks")
    missing = sorted(ours.keys() - theirs.keys())
    other = sorted(
        name for name in ours.keys() & theirs.keys() if not _fits(name, ours[name], theirs[name])
    )
    if not missing and not other:
        return fine(f"all {len(ours)} pieces of memory fit")
    evidence = [Evidence("x-query-ramblock", name, "missing") for name in missing]
    evidence += [
        Evidence(f"x-query-ramblock {name}", *sizes(ours[name].used, theirs[name].total))
        for name in other
    ]
    parts = [f"lacks {names(missing)}"] if missing else []
    parts += [f"has {names(other)} in another size"] if other else []
    return blocker(
        f"the destination {' and '.join(parts)}",
        *evidence,
        remedy="the same -m and memory backend (also its id), the same firmware and ROM files "
        "(romfile=) on both sides",
    )


def _fits(name: str, source: RamBlock, destination: RamBlock) -> bool:
    """As QEMU's ram_load decides: it resizes a block that can be resized, as the tables of its
    firmware can."""
    if name.startswith("/rom@") or destination.used != destination.total:
        return source.used <= destination.total
    return source.used == destination.used


def _ram(qemu: Qemu) -> Backend:
    """The backend of most of the RAM."""
    backends = told(qemu.backends, qemu, "backends")
    if not backends:
        raise UntoldError("query-memdev names no memory backend")
    return max(backends, key=lambda backend: backend.size)


def _page_size(qemu: Qemu) -> int:
    blocks = told(qemu.ram_blocks, qemu, "ram_blocks")
    return max((block.page_size for block in blocks.values()), default=_PAGE)


@check(
    "memory-backend",
    "huge pages on one side alone change the guest's speed; shared memory that other processes "
    "look into (vhost-user, virtiofs) has to be shared on both sides",
)
def memory_backend(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours, theirs = _ram(source), _ram(destination)
    pages = _page_size(source), _page_size(destination)
    evidence = (
        Evidence("qom-get /objects: type", ours.type, theirs.type),
        Evidence("query-memdev: share", shown(ours.share), shown(theirs.share)),
        Evidence("x-query-ramblock: page size", *sizes(*pages)),
    )
    other = ["shared on one side alone"] if ours.share != theirs.share else []
    other += ["in pages of different sizes"] if pages[0] != pages[1] else []
    if other:
        return warning(
            f"the RAM is {' and '.join(other)}",
            *evidence,
            remedy="start the destination with the source's memory backend",
        )
    return fine("the RAM is in the same kind of memory", *evidence)


@check(
    "memory-apart",
    "where both QEMUs map one file, what comes in overwrites the running VM's own RAM",
    forceable=False,
)
def memory_apart(facts: Facts) -> Answer:
    source, destination = facts.pair()
    ours = {one.file_id: one for one in told(source.backends, source, "backends") if one.share}
    for theirs in told(destination.backends, destination, "backends"):
        if theirs.share and theirs.file_id is not None and theirs.file_id in ours:
            mine = ours[theirs.file_id]
            return blocker(
                f"both sides have their RAM in the same file, {theirs.path}",
                Evidence("qom-get mem-path", mine.path, theirs.path),
                remedy="give the destination's backend a file of its own, or a folder",
            )
    return fine("each side has RAM of its own")


@check(
    "destination-memory",
    "a host that runs out of memory while it loads a VM swaps, or kills a process",
)
def destination_memory(facts: Facts) -> Answer:
    host = this_host(facts)
    source = facts.source
    ram = told(source.memory, source, "memory") + (source.plugged_memory or 0)
    page = _page_size(facts.destination or source)
    if page > _PAGE and (free := host.huge_pages_free.get(page)) is not None:
        taken = facts.destination is not None
        evidence = Evidence(f"free huge pages of {format_size(page)}", str(free))
        if taken or free * page >= ram:
            return fine("the destination has its huge pages", evidence)
        return blocker(
            f"{free} huge pages of {format_size(page)} are free for {format_size(ram)} of RAM",
            evidence,
            remedy="reserve more (vm.nr_hugepages)",
        )
    free = host.memory_available + _taken(facts.destination)
    evidence = Evidence("/proc/meminfo MemAvailable, and what its QEMU has", format_size(free))
    used = None if source.process is None else min(ram, source.process.resident)
    remedy = "make room at the destination, or choose another one"
    if used is not None and free + host.swap_free < used:
        what = f"{format_size(free)} is free for a VM that uses {format_size(used)}"
        return blocker(what, evidence, remedy=remedy)
    if free < ram:
        what = f"{format_size(free)} is free, and the VM may come to use {format_size(ram)}"
        return warning(what, evidence, remedy=remedy)
    return fine(f"{format_size(free)} is free for {format_size(ram)} of RAM", evidence)


def _taken(destination: Qemu | None) -> int:
    """What the destination has allocated beforehand."""
    return destination.process.resident if destination and destination.process else 0


CHECKS = (memory_size, ram_blocks, memory_backend, memory_apart, destination_memory)
