"""Multi-queue virtio-net: a queue pair for each vCPU, and vhost.

More than eight queues seldom gain anything and each costs vectors and kernel memory (Ganeti's
`auto` stops there too). User networking has one queue, as have the cards that imitate hardware.
"""

from __future__ import annotations

from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.spec import Nic, VmSpec

MOST_QUEUES = 8
VHOST = "/dev/vhost-net"


def configure(spec: VmSpec, host: HostFacts) -> Configured:
    """`spec` with queues and vhost chosen for each virtio card on a bridge."""
    nics = []
    reasons: list[Reason] = []
    for index, nic in enumerate(spec.nic):
        if nic.has_queues:
            nic = _configured(spec, host, index, nic, reasons)
        elif spec.cpu.count > 1:
            what = "QEMU's user network" if nic.kind == "user" else f"a card of model {nic.model}"
            _say(
                reasons,
                f"card {index} has one queue, as {what} has; a virtio card on a bridge would have "
                f"{min(spec.cpu.count, MOST_QUEUES)}",
            )
        nics.append(nic)
    return Configured(spec.model_copy(update={"nic": tuple(nics)}), tuple(reasons))


def _configured(spec: VmSpec, host: HostFacts, index: int, nic: Nic, reasons: list[Reason]) -> Nic:
    queues, vhost = nic.queues, nic.vhost
    if queues is None:
        queues, why = _queues(spec.cpu.count, host)
        _say(reasons, f"card {index} on {nic.bridge} has {_pairs(queues)}: {why}")
    elif queues > spec.cpu.count:
        _say(
            reasons,
            f"card {index} has {queues} queues for {_vcpus(spec.cpu.count)}; Linux uses no more "
            "queues than vCPUs, and each of the others costs vectors and memory",
            warning=True,
        )
    problem = _vhost_problem(spec, host)
    if vhost is None:
        vhost = not problem
        how = f"QEMU's main loop: {problem}" if problem else "vhost, in the kernel"
        # What TCG lacks nobody can turn on.
        fixable = bool(problem) and spec.qemu.accelerator != "tcg"
        _say(reasons, f"card {index} is served by {how}", warning=fixable)
    elif vhost and problem:
        _say(reasons, f"card {index} shall be served by vhost: {problem}", warning=True)
    elif not vhost and queues > 1:
        _say(
            reasons,
            f"card {index} has {queues} queues, and without vhost one thread of QEMU serves all",
            warning=True,
        )
    return nic.model_copy(update={"queues": queues, "vhost": vhost})


def _queues(vcpus: int, host: HostFacts) -> tuple[int, str]:
    if vcpus == 1:
        return 1, "there is one vCPU"
    if host.net_admin is False:
        return 1, (
            "several need a tap of vmferry's own making, for which this user lacks CAP_NET_ADMIN; "
            "QEMU's bridge helper makes one with one queue"
        )
    if vcpus > MOST_QUEUES:
        return MOST_QUEUES, f"one for each vCPU, but at most {MOST_QUEUES}"
    return vcpus, "one for each vCPU"


def _vhost_problem(spec: VmSpec, host: HostFacts) -> str:
    """Why vhost should not serve the card; empty where it should."""
    if spec.qemu.accelerator == "tcg":
        return (
            "no vhost under TCG, where QEMU must see each write to memory that it has translated "
            "code of"
        )
    if host.net_admin is False:
        return "the tap comes from QEMU's bridge helper"
    if VHOST not in host.devices:
        return f"there is no {VHOST} (`modprobe vhost_net`)"
    problem = host.devices[VHOST]
    return f"{VHOST}: {problem}" if problem else ""


def _say(reasons: list[Reason], text: str, *, warning: bool = False) -> None:
    reasons.append(Reason(Feature.NET_QUEUES, text, warning))


def _pairs(queues: int) -> str:
    return "one pair of queues" if queues == 1 else f"{queues} pairs of queues"


def _vcpus(count: int) -> str:
    return "one vCPU" if count == 1 else f"{count} vCPUs"
