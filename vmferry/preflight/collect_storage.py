"""The disks of one QEMU, and what it does with them at the moment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from vmferry.preflight.asking import Asking
from vmferry.preflight.collect_files import Files, Look
from vmferry.preflight.facts import Drive

# Image names that QEMU makes of a block device's own driver (nbd://, null-co://, …).
_ADDRESS = re.compile(r"[a-z][a-z0-9+-]*:")


async def read_drives(
    asking: Asking, keys: Mapping[str, str], files: Files
) -> tuple[Drive, ...] | None:
    """The disks that have an image in them; None where QEMU does not tell. `keys` are devices'."""
    blocks = await asking.ask("drives", "query-block")
    nodes = await asking.ask("drives", "query-named-block-nodes")
    if blocks is None or nodes is None:
        return None
    return tuple(
        _drive(row, row["inserted"], nodes, keys, files)
        for row in blocks
        if row.get("inserted") is not None
    )


def _drive(
    row: Mapping[str, Any],
    inserted: Mapping[str, Any],
    nodes: list[dict[str, Any]],
    keys: Mapping[str, str],
    files: Files,
) -> Drive:
    image = _below_filters(inserted["image"])
    file = image_of(image["filename"])
    below = [inserted, *(node for node in nodes if node["file"] == image["filename"])]
    # One without a name is a job's own.
    bitmaps = [one for node in below for one in node.get("dirty-bitmaps", ()) if "name" in one]
    is_file = bool(file) and _ADDRESS.match(file) is None
    look = files.opened_as(file) if is_file else Look()
    device = str(row.get("qdev", "")).removesuffix("/virtio-backend")
    return Drive(
        key=keys.get(device, device) or str(row.get("device", "")),
        file=file,
        format=str(image["format"]),
        size=int(image["virtual-size"]),
        read_only=bool(inserted.get("ro")),
        direct=bool(inserted["cache"]["direct"]),
        no_flush=bool(inserted["cache"]["no-flush"]),
        is_file=is_file,
        gone=look.gone,
        file_id=look.file_id,
        bitmaps=tuple(dict.fromkeys(str(one["name"]) for one in bitmaps)),
    )


def _below_filters(image: dict[str, Any]) -> dict[str, Any]:
    """The guest's image: a job puts a filter above it, which has the same file."""
    while (below := image.get("backing-image")) and below["filename"] == image["filename"]:
        image = below
    return image


def image_of(name: str) -> str:
    """The image's own file, where QEMU's name for it is a description in JSON."""
    if not name.startswith("json:"):
        return name
    try:
        below = json.loads(name.removeprefix("json:"))
        while isinstance(below.get("file"), dict):
            below = below["file"]
        return str(below["filename"])
    except (ValueError, KeyError, AttributeError):
        return name


async def read_jobs(asking: Asking) -> tuple[str, ...] | None:
    """Background jobs that are not over yet, in words."""
    jobs = await asking.ask("jobs", "query-jobs")
    if jobs is None:
        return None
    return tuple(
        f"{job['type']} '{job['id']}' ({job['status']})"
        for job in jobs
        if job["status"] not in ("concluded", "null")
    )


async def read_exports(asking: Asking) -> tuple[str, ...] | None:
    """Disks that QEMU serves to others at the moment, in words."""
    exports = await asking.ask("exports", "query-block-exports")
    if exports is None:
        return None
    return tuple(f"{one['type']} '{one['id']}' of {one['node-name']}" for one in exports)
