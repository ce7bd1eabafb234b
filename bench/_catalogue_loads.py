"""The loads under which cases of the catalogue are audited. Scripts, for the host and the guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Longer than any audit; everything ends with its guest.
_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Load:
    """`host` runs on the host (`$G` is the guest's name) and `guest` in the guest; both return at
    once. `settle`: seconds until it is there."""

    host: str = ""
    guest: str = ""
    settle: float = 2.0


def datagrams(target: str, size: int, flows: int) -> str:
    """Sends UDP from so many ports, some thousands a second at most: a flood leaves no time for
    those who receive it."""
    return (
        "python3 -c '"
        "import socket, time\n"
        f"flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({flows})]\n"
        "for one in flows:\n"
        "    one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n"
        f"end = time.monotonic() + {_SECONDS}\n"
        "while time.monotonic() < end:\n"
        "    for one in flows:\n"
        "        try:\n"
        f'            one.sendto(bytes({size}), ("{target}", 9))\n'
        "        except OSError:\n"
        "            pass\n"
        f"    time.sleep({flows} / 4000)\n"
        "' > /dev/null 2>&1 & echo $! > /run/catalogue-load"
    )


def _migration(bandwidth: str, capability: str = "") -> str:
    """Into nothing; the guest writes faster than that."""
    return (
        f"{capability}labguest qmp $G migrate-set-parameters '{{\"max-bandwidth\": {bandwidth}}}'; "
        'labguest qmp $G migrate \'{"uri": "exec:cat > /dev/null"}\''
    )


_AUTO_CONVERGE = (
    "labguest qmp $G migrate-set-capabilities "
    '\'{"capabilities": [{"capability": "auto-converge", "state": true}]}\'; '
)
# Some passes have to end before, which takes as long as the emulator does.
_UNTIL_THROTTLED = (
    '; timeout 300 sh -c "until labguest qmp $G query-migrate | grep -q cpu-throttle-percentage; '
    'do sleep 1; done"'
)
_WRITER = (
    "python3 -c '"
    "memory = bytearray(96 << 20)\n"
    "value = 0\n"
    "while True:\n"
    "    value = (value + 1) % 256\n"
    "    memory[::4096] = bytes([value]) * (len(memory) // 4096)\n"
    "' > /dev/null 2>&1 &"
)
_DISKS = (
    "modprobe -q virtio_scsi; modprobe -q sd_mod; sleep 2; "
    "files=$(ls -d /dev/sd? /dev/vd[b-z] 2>/dev/null); "
    f"labload disk $(nproc) {_SECONDS} $files > /dev/null 2>&1 &"
)
_GUEST, _EVERYBODY = "192.168.77.77", "192.168.77.255"

LOADS: Mapping[str, Load] = {
    "none": Load(settle=0.0),
    "net": Load(host=datagrams(_GUEST, 200, 48)),
    "one-flow": Load(host=datagrams(_GUEST, 200, 1)),
    "send-large": Load(guest=datagrams(_EVERYBODY, 1400, 16)),
    "send-small": Load(guest=datagrams(_EVERYBODY, 20, 16)),
    "disk": Load(guest=_DISKS, settle=4.0),
    "locks": Load(guest=f"labload lock $((2 * $(nproc))) {_SECONDS} > /dev/null 2>&1 &"),
    "migration": Load(_migration("16777216"), _WRITER, settle=4.0),
    "throttled-migration": Load(
        _migration("4194304", _AUTO_CONVERGE) + _UNTIL_THROTTLED, _WRITER, settle=0.0
    ),
}
