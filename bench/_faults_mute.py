"""What can be told of a guest whose agent does not answer, before its VM is ended."""

from __future__ import annotations

import time

from bench._faults_lab import Place
from bench._faults_watch import vcpu_ns
from vmferry.hypervisor.qemu.instance import read_tail
from vmferry.testguest.heartbeat import HeartbeatError, HeartbeatReader

_LOOK_SECONDS = 1.0


def signs_of_life(place: Place) -> str:
    """Its beats, the work of its vCPUs, the last words of its QEMU and of its kernel."""
    reader = HeartbeatReader(place.files.heartbeat_socket, "mute guest")
    spent = vcpu_ns(place.process.pid)
    try:
        reader.start()
        time.sleep(_LOOK_SECONDS)
        beats = f"{reader.count} beats"
    except HeartbeatError as error:
        beats = error.message
    finally:
        reader.stop()
    worked = (vcpu_ns(place.process.pid) - spent) / 1e6
    return (
        f"in {_LOOK_SECONDS:.0f} s {beats}, {worked:.0f} ms of vCPU; "
        f"QEMU said {read_tail(place.files.stderr_log)[-500:]!r}, "
        f"the guest's kernel {read_tail(place.files.console_log)[-500:]!r}"
    )
