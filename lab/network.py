"""Who a host is on the network that all hosts of a lab share, and how fast that network is.

Hosts go on from one state, so each is made another one first: its name, addresses, clock and random
numbers.
"""

from __future__ import annotations

import os
import shlex
import time
import uuid

from lab.agent import Agent
from lab.errors import LabError
from vmferry.errors import UsageError

NAMES = ("a", "b")
BRIDGE = "br0"
PREFIX = 24
# Of a queue that is never full before TCP has found its speed (netem counts packets).
_QUEUE_PACKETS = 10000


def address(index: int) -> str:
    """The address of host number `index` on the shared network."""
    return f"192.168.77.{11 + index}"


def _mac(index: int) -> str:
    return f"52:54:00:6c:62:{11 + index:02x}"


async def introduce(agent: Agent, index: int) -> None:
    """Make a restored machine host number `index`. Raises LabError."""
    hosts = "".join(f"{address(number)} lab-{name} {name}\n" for number, name in enumerate(NAMES))
    script = f"""
    set -e
    hostname lab-{NAMES[index]}
    echo lab-{NAMES[index]} > /etc/hostname
    printf %s {shlex.quote(uuid.uuid4().hex)} > /etc/machine-id
    printf %s {shlex.quote("127.0.0.1 localhost" + chr(10) + hosts)} > /etc/hosts
    ip link set eth0 address {_mac(index)}
    ip link add {BRIDGE} type bridge forward_delay 0
    ip link set {BRIDGE} address {_mac(index)}
    ip link set eth0 master {BRIDGE} up
    ip address add {address(index)}/{PREFIX} dev {BRIDGE}
    ip link set {BRIDGE} up
    date -s @{time.time():.3f} > /dev/null
    """
    (await agent.run(script, seed=os.urandom(64))).check()


def limit_script(rate: int | None, delay: float) -> str:
    """What sets one host's half of the link: bytes a second (None: unlimited), seconds each way.

    Raises UsageError.
    """
    if rate is not None and rate < 1000:
        raise UsageError("a link of less than 8 kbit/s carries nothing")
    if not 0 <= delay <= 10:
        raise UsageError("a delay is from 0 to 10 seconds")
    if rate is None and not delay:
        return "tc qdisc del dev eth0 root 2>/dev/null || true"
    words = ["tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "limit", str(_QUEUE_PACKETS)]
    if delay:
        words += ["delay", f"{delay * 1e6:.0f}us"]
    if rate is not None:
        words += ["rate", f"{rate * 8}bit"]
    return shlex.join(words)


async def limit(agents: list[Agent], rate: int | None, delay: float) -> None:
    """Set the speed of the shared network in both directions. Raises LabError or UsageError."""
    script = limit_script(rate, delay)
    for agent in agents:
        result = await agent.run(script)
        if not result.ok:
            raise LabError(f"{agent.name} cannot limit its link: {result.complaint}")
