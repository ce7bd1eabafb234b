"""Conditions on the disks: both sides see the same images, and see them whole."""

from __future__ import annotations

import contextlib

from vmferry.preflight.checks.common import names, shown, sizes, told
from vmferry.preflight.checks.pairing import paired
from vmferry.preflight.facts import Device, Drive, Facts, UntoldError
from vmferry.preflight.finding import Answer, Evidence, blocker, check, fine, warning

_READ = "query-block"
# What QEMU calls an image without a format of its own: raw, or the driver that reaches it.
_FORMATS = frozenset(
    {"bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qcow2", "qed"}
    | {"quorum", "vdi", "vhdx", "vmdk", "vpc", "vvfat"}
)


def _pairs(facts: Facts) -> tuple[list[tuple[Drive, Drive]], list[Drive]]:
    """Disks of both sides by their device, and those that the destination lacks."""
    source, destination = facts.pair()
    theirs = {drive.key: drive for drive in told(destination.drives, destination, "drives")}
    keys = _their_keys(facts)
    common, missing = [], []
    for drive in told(source.drives, source, "drives"):
        other = theirs.get(keys.get(drive.key, drive.key))
        if other is not None:
            common.append((drive, other))
        else:
            missing.append(drive)
    return common, missing


def _their_keys(facts: Facts) -> dict[str, str]:
    """What the destination calls the source's devices, where that can be told."""
    with contextlib.suppress(UntoldError):
        return {ours.key: theirs.key for ours, theirs in paired(facts).pairs}
    return {}


@check(
    "disk-images",
    "the guest goes on reading and writing where it was: with another image its file systems are "
    "ruined",
)
def disk_images(facts: Facts) -> Answer:
    common, missing = _pairs(facts)
    wrong = [Evidence(f"{_READ} {one.key}", one.file, "no image") for one in missing]
    unsure = []
    for ours, theirs in common:
        evidence = Evidence(f"{_READ} {ours.key}", ours.file, theirs.file)
        if ours.file_id is not None and theirs.file_id is not None:
            wrong += [evidence] if ours.file_id != theirs.file_id else []
        elif ours.file != theirs.file:
            unsure.append(evidence)
    remedy = (
        "give the destination the same images, on storage that both hosts share; vmferry does not "
        "copy disks"
    )
    if wrong:
        what = f"the destination has other images behind {_keys(wrong)}"
        return blocker(what, *wrong, *unsure, remedy=remedy)
    if unsure:
        what = f"the images behind {_keys(unsure)} have other names, and may be others"
        return warning(what, *unsure, remedy=remedy)
    return fine(f"both sides have the same {len(common)} images")


def _keys(evidence: list[Evidence]) -> str:
    return names([one.where.removeprefix(f"{_READ} ") for one in evidence])


@check(
    "disk-formats",
    "an image that one side takes for raw and the other for qcow2 is ruined at the first write; "
    "its size and whether it may be written are known to the guest",
)
def disk_formats(facts: Facts) -> Answer:
    common, _ = _pairs(facts)
    evidence = []
    for ours, theirs in common:
        where = f"{_READ} {ours.key}"
        if _format(ours) != _format(theirs):
            evidence.append(Evidence(f"{where} format", ours.format, theirs.format))
        if ours.size != theirs.size:
            evidence.append(Evidence(f"{where} size", *sizes(ours.size, theirs.size)))
        if ours.read_only != theirs.read_only:
            read_only = shown(ours.read_only), shown(theirs.read_only)
            evidence.append(Evidence(f"{where} read-only", *read_only))
    if not evidence:
        return fine("format, size and right to write of each disk are the same")
    return blocker(
        f"disks differ: {_keys(evidence)}",
        *evidence,
        remedy="give the destination the source's -blockdev or -drive options",
    )


def _format(drive: Drive) -> str:
    return drive.format if drive.format in _FORMATS else "raw"


@check(
    "disk-files",
    "an image that has no name any more (-snapshot, a deleted file) is in the source's QEMU alone, "
    "and what the guest wrote to it ends with that",
)
def disk_files(facts: Facts) -> Answer:
    drives = told(facts.source.drives, facts.source, "drives")
    files = [drive for drive in drives if drive.is_file and not drive.read_only]
    gone = [drive for drive in files if drive.gone]
    unseen = [drive for drive in files if drive.file_id is None and not drive.gone]
    if gone:
        return blocker(
            f"the image of {names([drive.key for drive in gone])} has no name any more",
            *(
                Evidence(f"{_READ} {one.key}, /proc/PID/fd", f"{one.file} (deleted)")
                for one in gone
            ),
            remedy="start the VM without -snapshot; or give it an image that stays",
        )
    if unseen:
        raise UntoldError(f"the images of {names([one.key for one in unseen])} cannot be looked at")
    return fine(f"{len(files)} image files are there")


@check(
    "disk-cache",
    "what the source's host has in its page cache the destination's host cannot see. QEMU asks for "
    "it to be written and dropped, which not every file system heeds",
)
def disk_cache(facts: Facts) -> Answer:
    drives = told(facts.source.drives, facts.source, "drives")
    cached = [one for one in drives if one.is_file and not one.read_only and not one.direct]
    if facts.local or facts.same_host:
        return fine("both sides are on one host and see one page cache")
    evidence = [
        Evidence(f"{_READ} {one.key} cache", f"direct off, no-flush {shown(one.no_flush)}")
        for one in cached
    ]
    which = names([one.key for one in cached])
    remedy = "start the VM with cache.direct=on, cache.no-flush=off (cache=none)"
    # Without a look at the destination, it may well be on this host.
    where = ", and whether the destination is on this host cannot be told"
    where = "" if facts.same_host is False else where
    if any(one.no_flush for one in cached):
        what = f"{which} is never written out (cache=unsafe){where}"
        make = blocker if facts.same_host is False else warning
        return make(what, *evidence, remedy=remedy)
    if cached:
        return warning(
            f"{which} goes through the host's page cache{where}", *evidence, remedy=remedy
        )
    return fine("no disk goes through the host's page cache")


@check(
    "dirty-bitmaps",
    "backup software keeps what has changed in bitmaps that a move leaves behind: the next backup "
    "is a full one, or wrong",
)
def dirty_bitmaps(facts: Facts) -> Answer:
    drives = told(facts.source.drives, facts.source, "drives")
    marked = [drive for drive in drives if drive.bitmaps]
    if not marked:
        return fine("no disk has a bitmap for incremental backups")
    return warning(
        f"bitmaps for incremental backups would be lost: {names([one.key for one in marked])}",
        *(Evidence(f"{_READ} {one.key} dirty-bitmaps", ", ".join(one.bitmaps)) for one in marked),
        remedy="have a full backup follow the move",
    )


@check(
    "iothreads",
    "the threads that serve the disks' queues beside QEMU's main loop: with fewer of them the "
    "guest's disks get slower by the move",
)
def iothreads(facts: Facts) -> Answer:
    pairs = paired(facts).pairs
    evidence = [
        Evidence(f"qom-get {ours.key} iothread", _threads(ours), _threads(theirs))
        for ours, theirs in pairs
        if len(theirs.iothreads) < len(ours.iothreads)
    ]
    if not evidence:
        return fine("as many iothreads serve its disks")
    which = names(
        [one.where.removeprefix("qom-get ").removesuffix(" iothread") for one in evidence]
    )
    return warning(
        f"fewer iothreads would serve {which}",
        *evidence,
        remedy="start the destination with the source's -object iothread, iothread= and "
        "iothread-vq-mapping=",
    )


def _threads(device: Device) -> str:
    return ", ".join(sorted(device.iothreads)) or "the main loop"


CHECKS = (disk_images, disk_formats, disk_files, disk_cache, dirty_bitmaps, iothreads)
