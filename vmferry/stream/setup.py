"""What the stream says before RAM: the configuration and the commands (migration/savevm.c)."""

from __future__ import annotations

from dataclasses import dataclass

from vmferry.stream import format as f
from vmferry.stream.format import Cursor, Wrong, shown


@dataclass(slots=True)
class Setup:
    """What the records of RAM depend on."""

    page_size: int
    ignores_shared: bool = False  # each RAM block comes with its address
    says_page_sizes: bool = False  # RAM blocks with pages unlike the host's come with their size


def checked_page_size(size: int) -> int:
    """The size of a target's page in bytes; Wrong for one that no target has."""
    if not f.MIN_PAGE_SIZE <= size <= f.MAX_PAGE_SIZE or size & (size - 1):
        raise Wrong(f"pages of {size} bytes, which no target has")
    return size


def read_configuration(c: Cursor) -> None:
    """The machine's name, which says nothing about RAM."""
    length = c.be32()
    if length > f.MAX_MACHINE_NAME:
        raise Wrong(f"a configuration whose machine has a name of {length} bytes")
    c.skip(length)


def read_subsection(c: Cursor, setup: Setup) -> None:
    """One of the configuration's optional parts, all of version 1."""
    name = c.name()
    version = c.be32()
    if version != 1:
        raise Wrong(f"version {version} of '{shown(name)}', and only 1 is known")
    if name == b"configuration/target-page-bits":
        bits = c.be32()
        setup.page_size = checked_page_size(1 << min(bits, 63))
    elif name == b"configuration/capabilities":
        _capabilities(c, setup)
    elif name == b"configuration/uuid":
        c.skip(16)
    else:
        raise Wrong(f"an unknown part of the configuration, '{shown(name)}'")


def _capabilities(c: Cursor, setup: Setup) -> None:
    """Those that change the stream; QEMU names no others here (should_validate_capability)."""
    count = c.be32()
    if count > f.MAX_CAPABILITIES:
        raise Wrong(f"a configuration with {count} capabilities")
    for _ in range(count):
        name = c.name()
        if name == b"mapped-ram":
            raise Wrong("the capability mapped-ram: pages are at fixed places of a file")
        if name != f.IGNORE_SHARED:
            raise Wrong(f"the capability '{shown(name)}', whose stream is not known")
        setup.ignores_shared = True


def read_command(c: Cursor, setup: Setup, ram_seen: bool) -> bool:
    """One command to the destination; True for that which begins the switchover."""
    command = c.be16()
    if command in f.UNREADABLE_COMMANDS:
        raise Wrong(f"{f.UNREADABLE_COMMANDS[command]}, which is not read")
    if command not in f.COMMAND_LENGTHS:
        raise Wrong(f"an unknown command {command}")
    length = c.be16()
    if length not in f.COMMAND_LENGTHS[command]:
        raise Wrong(f"command {command} with {length} bytes")
    if command == f.POSTCOPY_ADVISE:
        if ram_seen:
            raise Wrong("post-copy is announced after RAM has begun")
        if length:
            c.skip(8)  # the sizes of all backing pages, in one word
            setup.page_size = checked_page_size(c.be64())
            setup.says_page_sizes = True
    else:
        c.skip(length)
    return command == f.SWITCHOVER_START
