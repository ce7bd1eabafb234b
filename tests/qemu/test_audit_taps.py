"""`vmferry audit` of cards whose tap QEMU does not name: a bridge helper's, and a macvtap."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.qemu.home import Home
from tests.qemu.test_audit import name, started
from vmferry.fastpath.audit import Request, audit
from vmferry.fastpath.facts import Card
from vmferry.fastpath.judges import JUDGES

# QEMU's helper has its list of bridges in /etc, which is a copy here.
WITH_A_BRIDGE = """
set -e
for bridge in br0 br1; do ip link add $bridge type bridge; ip link set $bridge up; done
mount -t tmpfs none /mnt
cp -a /etc /mnt 2> /dev/null || true
mkdir -p /mnt/etc/qemu
echo 'allow all' > /mnt/etc/qemu/bridge.conf
mount --bind /mnt/etc /etc
exec "$@"
"""
# The node of a macvtap is named after its index, whatever the namespace.
WITH_A_MACVTAP = """
set -e
ip link add v0 type veth peer name v1
ip link add link v0 name macvtap0 index 765432 type macvtap mode bridge
ip link set v0 up
ip link set v1 up
ip link set macvtap0 mtu 1400 up
exec 9<> /dev/tap765432
exec "$@"
"""


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def cards_of(home: Home, script: str, *arguments: str) -> dict[str, Card]:
    """What an audit reads of the cards of a QEMU that is started by the script."""
    guest = started(home.folder / "vm", *arguments)
    alone = ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    guest.command = [*alone, "sh", "-c", script, "sh", *guest.command]
    with guest:
        found = asyncio.run(audit(Request(vm=name(guest), window=0.2), JUDGES))
    assert found.bugs == ()
    vm = found.facts.vm
    assert vm is not None
    assert vm.cards is not None
    return {card.name: card for card in vm.cards}


def card(identity: str, netdev: str) -> list[str]:
    device = f"virtio-net-pci,id={identity},netdev=h-{identity},romfile="
    return ["-netdev", f"{netdev},id=h-{identity}", "-device", device]


def test_taps_of_the_bridge_helper(home: Home) -> None:
    bridges = {"a": "br0", "b": "br1", "c": "br1"}
    words = [word for one, bridge in bridges.items() for word in card(one, f"bridge,br={bridge}")]
    found = cards_of(home, WITH_A_BRIDGE, *words)
    assert [found[one].netdev for one in bridges] == ["tap"] * 3
    if os.geteuid() != 0:
        return
    tap = found["a"].tap
    assert tap is not None
    assert (tap.name, tap.bridge, tap.multi_queue) == ("tap0", "br0", False)
    assert (found["b"].tap, found["c"].tap) == (None, None)


def test_a_macvtap(home: Home) -> None:
    if os.geteuid() != 0:
        # Nobody else may open its device.
        return
    tap = cards_of(home, WITH_A_MACVTAP, *card("a", "tap,fd=9"))["a"].tap
    assert tap is not None
    assert (tap.name, tap.kind, tap.mtu, tap.bridge) == ("macvtap0", "macvtap", 1400, "")
    assert (tap.queues, tap.uplinks) == (None, {})
