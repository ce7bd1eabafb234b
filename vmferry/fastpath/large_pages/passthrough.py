"""What keeps a VFIO device from large IOMMU pages, and its VM from moving."""

from __future__ import annotations

from vmferry.fastpath.configured import Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.vm.spec import VmSpec

_VFIO = "/dev/vfio/vfio"
# Of Intel's capability register: second-stage leaves of 2 MiB. The next bit is for 1 GiB.
_LEAVES_OF_2_MIB = 1 << 34


def passthrough_reasons(spec: VmSpec, host: HostFacts) -> list[Reason]:
    """One that the VM cannot move, and a warning for each thing that is wrong at the host."""
    devices = ", ".join(one.host for one in spec.passthrough)
    found = [
        Reason(
            Feature.LARGE_PAGES,
            f"the VM cannot be moved while it has a device of the host: {devices}",
        )
    ]
    for text in (*_vfio(host), *_iommu(host)):
        found.append(Reason(Feature.LARGE_PAGES, text, warning=True))
    return found


def _vfio(host: HostFacts) -> list[str]:
    problem = host.devices.get(_VFIO)
    if problem is None:
        return [f"there is no {_VFIO} (`modprobe vfio-pci`, and bind the device to it)"]
    found = [f"{_VFIO}: {problem}"] if problem else []
    parameters = (host.modules or {}).get("vfio_iommu_type1", {})
    if parameters.get("disable_hugepages") in ("Y", "1"):
        found.append(
            "vfio_iommu_type1.disable_hugepages is on: every page is mapped by itself; `echo N > "
            "/sys/module/vfio_iommu_type1/parameters/disable_hugepages` before the VM starts"
        )
    return found


def _iommu(host: HostFacts) -> list[str]:
    if host.iommus == ():
        return [
            "the host shows no IOMMU: turn VT-d or AMD-Vi on in the firmware, and on Intel "
            "intel_iommu=on on the kernel's command line"
        ]
    found = []
    options = (host.command_line or "").split()
    asked = [word for word in options if word.startswith("intel_iommu=")]
    if any("sp_off" in word.split("=", 1)[1].split(",") for word in asked):
        found.append(
            "intel_iommu=sp_off is on the host's kernel command line: no leaf is larger than 4 KiB"
        )
    for one in host.iommus or ():
        if one.kind == "intel" and one.cap is not None and not one.cap & _LEAVES_OF_2_MIB:
            found.append(f"the IOMMU {one.name} has no leaves larger than 4 KiB")
    return found
