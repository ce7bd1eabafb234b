"""Any facts that a collector could hand over, for hypothesis: nothing anywhere, zero, and words
that judges look for."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from hypothesis import strategies as st

from vmferry.fastpath.facts import Facts

_WORDS: Mapping[str, tuple[str, ...]] = {
    "accelerator": ("kvm", "tcg", "xen"),
    "model": ("virtio-net-pci", "e1000", "virtio-scsi-pci", "virtio-blk-pci"),
    "netdev": ("tap", "user", "vhost-user", ""),
    "driver": ("virtio_net", "virtio_scsi", "virtio_blk", "e1000e", ""),
    "mac": ("52:54:00:00:00:01", "52:54:00:00:00:02", ""),
    "role": ("vcpu", "iothread", "main", "migration", "vhost", "other"),
    "kind": ("intel", "amd", "other", "tun", "macvtap"),
    "cpu_type": ("host-x86_64-cpu", "max-x86_64-cpu", "EPYC-x86_64-cpu"),
    "spinlocks": (
        "kvm-guest: PV spinlocks enabled",
        "kvm-guest: PV spinlocks disabled, no host support",
        "kvm-guest: PV spinlocks disabled with KVM_HINTS_REALTIME hints",
        "kvm-guest: PV spinlocks disabled, single CPU",
        'kvm-guest: PV spinlocks disabled, forced by "nopvspin" parameter',
    ),
    "command_line": (
        "",
        "quiet nopvspin",
        "intel_iommu=on,sp_off",
        "clocksource=hpet tsc=reliable",
    ),
    "source": ("kvm-clock", "tsc", "hpet", "acpi_pm", "strange"),
    "clocksource": ("tsc", "kvm-clock", "hpet"),
    "sources": ("kvm-clock", "tsc", "hpet"),
    "architecture": ("x86_64", "aarch64"),
    "interrupts": ("virtio0-input.0", "virtio0-output.1", "virtio1-request", "virtio2-virtqueues"),
    "features": ("kvm-pv-unhalt", "kvm-hint-dedicated", "kvm-pv-ipi", "kvmclock", "invtsc"),
    "modules": ("kvm", "vhost_net", "vfio_iommu_type1"),
    "offered": ("VIRTIO_NET_F_MQ",),
    "taken": ("VIRTIO_NET_F_MQ",),
    "taps": ("tap0",),
    "tap": ("tap0",),
    "name": ("net0", "scsi0", "tap0", "eth0", "sda"),
    "iothreads": ("io0", "io1"),
    "devices": ("/dev/kvm", "/dev/vhost-net"),
    "words": ("-cpu", "max,kvm-pv-unhalt=on"),
    "transmit_calls": ("handle_tx_zerocopy", "handle_tx_copy", "vhost_zerocopy_callback"),
    "blocked": ("State blocked by non-migratable CPU device (invtsc flag)",),
}
_INNER = ("eager_page_split", "experimental_zcopytx", "disable_hugepages", "sent_packets")
_TEXT = st.sampled_from(["", "Y", "N", "0", "1", "x"])
_WHOLE = st.sampled_from([0, 1, 2, 3, 4, 9, 100, 5000, 4096, 2 << 20, 3 << 34])
_REAL = st.sampled_from([0.0, 0.01, 0.3, 1.0, 50.0, 400.0])


def facts() -> st.SearchStrategy[Facts]:
    """Facts of any shape."""
    return typing.cast("st.SearchStrategy[Facts]", _of_class(Facts))


@cache
def _of_class(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(
        cls, **{one.name: _of(hints[one.name], one.name) for one in dataclasses.fields(cls)}
    )


def _of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        some = [_of(one, name) for one in arguments if one is not type(None)]
        return st.one_of(st.none(), *some)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(_of(arguments[0], name), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(_of(one, name) for one in arguments))
    if origin is frozenset:
        return st.frozensets(_of(arguments[0], name), max_size=3)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        keys = _of(arguments[0], name)
        inner = st.sampled_from(_INNER) if typing.get_origin(arguments[1]) else None
        values = (
            st.dictionaries(inner, _of(typing.get_args(arguments[1])[1], ""), max_size=3)
            if inner is not None and typing.get_args(arguments[1])[0] is str
            else _of(arguments[1], "")
        )
        return st.dictionaries(keys, values, max_size=3)
    if dataclasses.is_dataclass(hint):
        return _of_class(typing.cast(type, hint))
    if hint is str:
        return st.sampled_from(_WORDS[name]) if name in _WORDS else _TEXT
    return {bool: st.booleans(), int: _WHOLE, float: _REAL}[hint]
