"""The KVM clock, read without a system call: nothing to turn on, and some ways to lose it.

QEMU shows kvmclock and its stable bit by itself; with the bit the guest reads the clock in user
space. The bit goes where the host's own clock is not the TSC. An invariant TSC would do as well,
and keeps the VM from moving.
"""

from __future__ import annotations

from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.cpu_model import CpuModel, parse_cpu_model
from vmferry.vm.spec import VmSpec

CLOCK, STABLE = "kvmclock", "kvmclock-stable-bit"
INVARIANT, FREQUENCY = "invtsc", "tsc-frequency"


def configure(spec: VmSpec, host: HostFacts) -> Configured:
    """`spec` as it is, with what keeps its guest from reading the clock fast, or from moving."""
    if spec.cpu.model is None or host.architecture != "x86_64":
        return Configured(spec, ())
    model = parse_cpu_model(spec.cpu.model)
    reasons = list(_invariant(model))
    if spec.qemu.accelerator != "tcg":
        reasons += _kvm_clock(model, host)
    return Configured(spec, tuple(reasons))


def _kvm_clock(model: CpuModel, host: HostFacts) -> list[Reason]:
    off = [name for name in (CLOCK, STABLE) if model.is_off(name)]
    if off:
        without = "a clock of KVM" if CLOCK in off else "the clock of KVM in user space"
        return [
            _warning(f"cpu.model turns {' and '.join(off)} off: the guest cannot read {without}")
        ]
    if host.clocksource not in (None, "tsc"):
        return [
            _warning(
                f"the host's clock source is {host.clocksource}, not tsc: KVM takes the stable bit "
                "of kvmclock away, and each look at the clock is a system call in the guest"
            )
        ]
    if model.is_on(INVARIANT):
        return []
    text = (
        f"{CLOCK} and its stable bit are on, as QEMU has them by itself; no {INVARIANT}, with which"
        " the VM could not move"
    )
    return [Reason(Feature.CLOCK, text)]


def _invariant(model: CpuModel) -> list[Reason]:
    if not model.is_on(INVARIANT) or FREQUENCY in model.features:
        return []
    return [
        _warning(
            f"cpu.model asks for {INVARIANT}: the VM cannot be moved; with {FREQUENCY}=… beside it "
            "it can, to hosts that can keep that frequency"
        )
    ]


def _warning(text: str) -> Reason:
    return Reason(Feature.CLOCK, text, warning=True)
