"""VFIO's type 1 interface, as far as mapping memory for a device goes (linux/vfio.h)."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

_SET_IOMMU, _GROUP_GET_STATUS, _GROUP_SET_CONTAINER = 0x3B66, 0x3B67, 0x3B68
_MAP, _UNMAP = 0x3B71, 0x3B72
_TYPE1_V2 = 3
_READ_WRITE = 3
_VIABLE = 1
# linux/mman.h: MAP_HUGETLB and the logarithm of the page size above bit 26.
_MAP_HUGETLB, _HUGE_SHIFT = 0x40000, 26
_MAP_POPULATE = 0x8000
_NO_HUGE_PAGES = 15
# Apart from what the device may have been given already, and fit for the largest page.
IOVA = 1 << 32


def groups() -> dict[int, list[str]]:
    """Groups that VFIO has, with the PCI addresses of their devices."""
    found = {}
    for path in sorted(Path("/dev/vfio").glob("[0-9]*")):
        with contextlib.suppress(OSError):
            devices = Path(f"/sys/kernel/iommu_groups/{path.name}/devices").iterdir()
            found[int(path.name)] = sorted(device.name for device in devices)
    return found


@contextlib.contextmanager
def container(group: int) -> Iterator[int]:
    """An IOMMU domain with the group in it, for one `with`. Raises OSError."""
    with contextlib.ExitStack() as undo:
        whole = os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC)
        undo.callback(os.close, whole)
        part = os.open(f"/dev/vfio/{group}", os.O_RDWR | os.O_CLOEXEC)
        undo.callback(os.close, part)
        status = bytearray(struct.pack("II", 8, 0))
        fcntl.ioctl(part, _GROUP_GET_STATUS, status)
        if not struct.unpack("II", status)[1] & _VIABLE:
            raise OSError(0, f"a device of group {group} has another driver than vfio-pci")
        fcntl.ioctl(part, _GROUP_SET_CONTAINER, struct.pack("i", whole))
        fcntl.ioctl(whole, _SET_IOMMU, _TYPE1_V2)
        yield whole


@contextlib.contextmanager
def memory(size: int, page_size: int) -> Iterator[int]:
    """The address of so much memory that is there, in pages of that size. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if page_size > mmap.PAGESIZE:
        flags |= _MAP_HUGETLB | (page_size.bit_length() - 1) << _HUGE_SHIFT | _MAP_POPULATE
    words = (ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    address = libc.mmap(None, *words)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        if page_size == mmap.PAGESIZE:
            libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _NO_HUGE_PAGES)
            ctypes.memset(address, 1, size)
        yield address
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def map_memory(whole: int, address: int, size: int) -> float:
    """Map it for the group's devices at IOVA; seconds that it took. Raises OSError."""
    request = struct.pack("IIQQQ", 32, _READ_WRITE, address, IOVA, size)
    began = time.perf_counter()
    fcntl.ioctl(whole, _MAP, request)
    return time.perf_counter() - began


def unmap_memory(whole: int, size: int) -> float:
    """Take it away again; seconds that it took. Raises OSError."""
    request = bytearray(struct.pack("IIQQ", 24, 0, IOVA, size))
    began = time.perf_counter()
    fcntl.ioctl(whole, _UNMAP, request)
    return time.perf_counter() - began
