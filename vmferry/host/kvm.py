"""Whether this machine has a KVM that boots stock guests."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def kvm_problem() -> str | None:
    """Why KVM cannot be used here, or None where it can.

    A /dev/kvm alone proves nothing: kvm_pvm has one, and a stock guest hangs on it for ever.
    """
    device = Path("/dev/kvm")
    if not device.exists():
        return "there is no /dev/kvm"
    if platform.machine() in ("x86_64", "i686") and not any(
        Path("/sys/module", module).exists() for module in ("kvm_intel", "kvm_amd")
    ):
        return "neither kvm_intel nor kvm_amd is loaded"
    if not os.access(device, os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm (the group kvm may)"
    return None
