"""Zero-copy transmit of vhost-net: off unless asked for, as in Linux since 098eadce3c62 (2019).

One packet that somebody holds up holds up all that come after it, the guest's pages are with others
while they are sent, and small packets are faster copied. It is a parameter of the host's module for
all VMs at once, which can only be set when the module is loaded: nothing of it is QEMU's.
"""

from __future__ import annotations

from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.spec import VmSpec

MODULE, PARAMETER = "vhost_net", "experimental_zcopytx"
_HOW = (
    f"`options {MODULE} {PARAMETER}=1` in a file of /etc/modprobe.d turns it on when the module is "
    "loaded again, which no VM may use then"
)
_COST = "one packet that is held up holds up all others of the VM"


def configure(spec: VmSpec, host: HostFacts) -> Configured:
    """`spec` as it is, with what there is to say of its cards that vhost serves."""
    served = [index for index, nic in enumerate(spec.nic) if nic.has_queues and nic.vhost]
    asked = [index for index in served if spec.nic[index].zero_copy]
    in_vain = [i for i, nic in enumerate(spec.nic) if nic.zero_copy and i not in served]
    reasons = [
        Reason(
            Feature.ZERO_COPY,
            f"card {index} shall send without copying, and vhost does not serve it, which it needs",
            warning=True,
        )
        for index in in_vain
    ]
    if served:
        reasons.append(_reason(_is_on(host), bool(asked)))
    return Configured(spec, tuple(reasons))


def _is_on(host: HostFacts) -> bool | None:
    value = (host.modules or {}).get(MODULE, {}).get(PARAMETER)
    return None if value is None else value not in ("0", "N")


def _reason(on: bool | None, asked: bool) -> Reason:
    if asked and on:
        text = f"on, as asked, for packets that leave the host; {_COST}"
        return Reason(Feature.ZERO_COPY, text)
    if asked:
        state = "off" if on is False else "not seen on"
        return Reason(
            Feature.ZERO_COPY, f"asked for, and {state} at this host: {_HOW}", warning=True
        )
    if on:
        return Reason(
            Feature.ZERO_COPY,
            f"on at this host though not asked for: {_COST}; {PARAMETER}=0 is the kernel's default",
            warning=True,
        )
    return Reason(
        Feature.ZERO_COPY,
        f"off, as it should be unless large packets to other hosts are most of the load: {_COST}",
    )
