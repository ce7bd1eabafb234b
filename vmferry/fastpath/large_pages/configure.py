"""Large pages: the guest's RAM in huge pages, and with it large leaves in the IOMMU's tables.

VFIO maps what lies together in the host's memory, so RAM in huge pages gives an IOMMU that can do
so leaves of 2 MiB or 1 GiB for a device that is passed through.
"""

from __future__ import annotations

from vmferry.fastpath.configured import Configured, Reason
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.fastpath.large_pages.passthrough import passthrough_reasons
from vmferry.units import GIB, KIB, format_size
from vmferry.vm.fields import PAGE_SIZES
from vmferry.vm.spec import Memory, VmSpec


def configure(spec: VmSpec, host: HostFacts) -> Configured:
    """`spec` with its RAM's backend and page size chosen, and advice on its VFIO devices."""
    memory = spec.memory
    reasons: list[Reason] = []
    if memory.backend is None:
        memory = _backend(spec, host, reasons)
    elif memory.backend == "hugepages":
        memory = _page_size(memory, host, reasons)
    if spec.passthrough:
        reasons += passthrough_reasons(spec, host)
    return Configured(spec.model_copy(update={"memory": memory}), tuple(reasons))


def _backend(spec: VmSpec, host: HostFacts, reasons: list[Reason]) -> Memory:
    """Huge pages where a device gains by them and the host has enough that nobody uses."""
    memory = spec.memory
    page = _fitting(memory.size, host) if spec.passthrough else None
    if page is not None:
        _say(
            reasons,
            f"RAM in huge pages of {format_size(page)}, for large leaves in the IOMMU's tables: "
            "the host has enough that nobody uses",
        )
        return memory.model_copy(update={"backend": "hugepages", "page_size": page})
    if spec.passthrough:
        problem = (
            f"and {memory.size // KIB} KiB is no multiple of them"
            if memory.size % min(PAGE_SIZES)
            else f"of which the host has not {format_size(memory.size)} to spare: "
            f"{_howto(memory.size, host)}"
        )
        _say(
            reasons,
            f"the RAM of a VM with passed-through devices should be in huge pages, {problem}",
            warning=True,
        )
    return memory.model_copy(update={"backend": "ram"})


def _page_size(memory: Memory, host: HostFacts, reasons: list[Reason]) -> Memory:
    page = memory.page_size or _fitting(memory.size, host) or PAGE_SIZES[0]
    if memory.page_size is None:
        _say(reasons, f"RAM in huge pages of {format_size(page)}")
    missing = _missing(memory.size, page, host)
    if missing is None:
        return memory.model_copy(update={"page_size": page})
    if missing:
        needed = memory.size // page
        _say(
            reasons,
            f"the RAM needs {needed} pages of {format_size(page)}, and {needed - missing} are "
            f"free: {missing} are missing; {_howto(memory.size, host, page)}",
            warning=True,
        )
    return memory.model_copy(update={"page_size": page})


def _fitting(size: int, host: HostFacts) -> int | None:
    """The largest page size of which the host has enough free ones."""
    for page in sorted(PAGE_SIZES, reverse=True):
        if size % page == 0 and _missing(size, page, host) == 0:
            return page
    return None


def _missing(size: int, page: int, host: HostFacts) -> int | None:
    """How many pages are not free; None where the host's cannot be told."""
    if host.huge_pages is None:
        return None
    _, free = host.huge_pages.get(page, (0, 0))
    return max(0, size // page - free)


def _howto(size: int, host: HostFacts, page: int = PAGE_SIZES[0]) -> str:
    total, free = (host.huge_pages or {}).get(page, (0, 0))
    wanted = total - free + -(-size // page)
    folder = f"/sys/kernel/mm/hugepages/hugepages-{page // 1024}kB"
    if page >= GIB:
        return f"hugepagesz=1G hugepages={wanted} on the host's kernel command line reserves them"
    return f"`echo {wanted} > {folder}/nr_hugepages` asks the host's kernel for them"


def _say(reasons: list[Reason], text: str, *, warning: bool = False) -> None:
    reasons.append(Reason(Feature.LARGE_PAGES, text, warning))
