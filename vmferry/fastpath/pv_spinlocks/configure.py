"""PV spinlocks and what belongs to them: a vCPU that waits for a lock sleeps until it is woken.

QEMU gives them to the models `host` and `max` alone; a named model such as EPYC lacks them unless
each is named. Under TCG there are none: QEMU drops them without a word.
"""

from __future__ import annotations

from vmferry.errors import UsageError
from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.cpu_model import CpuModel, parse_cpu_model
from vmferry.vm.spec import VmSpec

UNHALT = "kvm-pv-unhalt"
HINT = "kvm-hint-dedicated"
# On by default with `host` and off with named models (read from the vCPU of QEMU 7.2 by qom-get).
FEATURES = (
    UNHALT,
    "kvm-pv-ipi",
    "kvm-pv-tlb-flush",
    "kvm-pv-sched-yield",
    "kvm-asyncpf-int",
    "kvm-poll-control",
)


def configure(spec: VmSpec, host: HostFacts) -> Configured:
    """`spec` with PV features where its CPU model lacks them.

    Raises UsageError for kvm-hint-dedicated on vCPUs that have no CPU of their own, or with a model
    other than `host`.
    """
    if spec.cpu.model is None or host.architecture != "x86_64":
        return Configured(spec, ())
    model = parse_cpu_model(spec.cpu.model)
    if spec.qemu.accelerator == "tcg":
        return Configured(spec, _under_tcg(model))
    _check_hint(spec, model)
    reasons = list(_notes(spec, model))
    if not model.named:
        return Configured(spec, tuple(reasons))
    added = [feature for feature in FEATURES if feature not in model.features]
    if added:
        text = ",".join([spec.cpu.model, *(f"{feature}=on" for feature in added)])
        spec = spec.model_copy(update={"cpu": spec.cpu.model_copy(update={"model": text})})
        reasons.append(_reason(f"{model.name} lacks {', '.join(added)}: turned on"))
    return Configured(spec, tuple(reasons))


def _under_tcg(model: CpuModel) -> tuple[Reason, ...]:
    asked = [name for name in model.features if name.startswith("kvm-") and model.is_on(name)]
    if not asked:
        return ()
    text = (
        f"cpu.model asks for {', '.join(asked)}: under TCG the guest is not shown features of KVM"
    )
    return (_reason(text, warning=True),)


def _check_hint(spec: VmSpec, model: CpuModel) -> None:
    if not model.is_on(HINT):
        return
    if model.name != "host":
        raise UsageError(
            f"cpu.model: {HINT} needs the model 'host', and this is '{model.name}'",
            hint=f"leave {HINT} out, or set cpu.model = 'host,{HINT}=on'",
        )
    if not spec.cpu.pin:
        raise UsageError(
            f"cpu.model: {HINT} tells the guest that its vCPUs never wait for a CPU, and they are "
            "not pinned; where two of them share one, a lock's holder would be waited for in vain",
            hint="give each vCPU a CPU of the host with cpu.pin, and keep other load off these; or "
            f"leave {HINT} out",
        )


def _notes(spec: VmSpec, model: CpuModel) -> tuple[Reason, ...]:
    if model.is_off(UNHALT) and spec.cpu.count > 1:
        text = f"cpu.model turns {UNHALT} off: a vCPU spins for a lock whose holder may not run"
        return (_reason(text, warning=True),)
    if model.name == "host" and spec.cpu.pin and HINT not in model.features:
        text = (
            f"the vCPUs are pinned; where nothing else runs on their CPUs, cpu.model = "
            f"'{spec.cpu.model},{HINT}=on' saves the guest the PV locks"
        )
        return (_reason(text),)
    if not model.named and spec.cpu.count > 1:
        return (_reason(f"the model '{model.name}' has the PV features that this host's KVM has"),)
    return ()


def _reason(text: str, *, warning: bool = False) -> Reason:
    return Reason(Feature.PV_SPINLOCKS, text, warning)
