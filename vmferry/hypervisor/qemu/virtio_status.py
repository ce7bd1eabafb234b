"""What QMP x-query-virtio-status says of the features of a virtio device (QEMU 7.2 and later)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# QEMU 7.2 decodes features by kind, and aborts at a kind that it forgot (hw/virtio/virtio-qmp.c):
# ask of these alone.
DECODED = frozenset(
    {"virtio-net", "virtio-blk", "virtio-scsi", "virtio-serial", "virtio-balloon", "virtio-rng"}
)


def feature_names(told: Mapping[str, Any]) -> frozenset[str]:
    """The bare names, such as `VIRTIO_NET_F_MQ`, of `host-features` or `guest-features`; those that
    this QEMU cannot name are `bit N`."""
    unknown = int(told.get("unknown-dev-features", 0))
    return bare_names([*told.get("transports", ()), *told.get("dev-features", ())]) | {
        f"bit {bit}" for bit in range(unknown.bit_length()) if unknown >> bit & 1
    }


def bare_names(texts: Any) -> frozenset[str]:
    """`VIRTIO_NET_F_MQ: Multiqueue with …` without the words."""
    return frozenset(str(text).partition(":")[0] for text in texts)
