"""The last VM on a bridge of ours takes it away, whichever VM it was made for."""

from __future__ import annotations

import pytest

from vmferry.hypervisor.qemu.networks import release_bridges
from vmferry.vm.spec import VmSpec


@pytest.mark.parametrize("create", [True, False])
def test_a_bridge_is_offered_once_with_the_last_of_its_vms(
    create: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[str] = []
    monkeypatch.setattr("vmferry.hypervisor.qemu.networks.remove_unused_bridge", offered.append)
    card = {"kind": "bridge", "bridge": "vmf-test", "create_bridge": create}
    boot = {"kernel": "/vmlinuz"}
    spec = {"name": "two", "memory": {"size": 1 << 26}, "boot": boot, "nic": [card, card, {}]}
    release_bridges(VmSpec.model_validate(spec))
    # Whether vmferry made it, the bridge itself tells (host/links.py).
    assert offered == ["vmf-test"]
