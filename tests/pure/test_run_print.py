"""What `vmferry run --print` prints is what `vmferry run` would start."""

from __future__ import annotations

import pytest

from vmferry.cli.run import _as_if_woken
from vmferry.fastpath.collect_host import ASLEEP
from vmferry.fastpath.configure import configure
from vmferry.fastpath.facts import HostFacts
from vmferry.vm.spec import VmSpec

SPEC = VmSpec.model_validate(
    {
        "name": "web",
        "memory": {"size": 1 << 28},
        "boot": {"kernel": "/vmlinuz"},
        "cpu": {"count": 2, "model": "host"},
        "nic": [{"kind": "bridge", "bridge": "br0"}],
        "qemu": {"accelerator": "kvm"},
    }
)


@pytest.mark.parametrize(
    ("vhost", "may", "chosen"),
    [
        (ASLEEP, True, True),
        (ASLEEP, False, False),
        ("", True, True),
        ("this user may not open it", False, False),
    ],
)
def test_vhost_that_run_would_load_is_printed(
    vhost: str, may: bool, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmferry.cli.run.os.access", lambda *_: may)
    devices = {"/dev/vhost-net": vhost, "/dev/kvm": ASLEEP}
    host = _as_if_woken(HostFacts("x86_64", "6.1", 4, devices=devices, net_admin=True))
    assert configure(SPEC, host).spec.nic[0].vhost is chosen
    assert host.devices["/dev/kvm"] == ASLEEP
