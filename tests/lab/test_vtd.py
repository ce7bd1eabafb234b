"""A host with an Intel IOMMU, and a guest that gets a device by it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.lab import Lab
from lab.machine import Options
from tests.lab.common import shared_lab

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from shared_lab(1, Options(vtd=True))


async def test_iommu_has_large_pages(lab: Lab) -> None:
    capabilities = await lab.hosts[0].run("cat /sys/class/iommu/dmar0/intel-iommu/cap")
    assert int(capabilities.check().text, 16) >> 34 & 3 == 3  # 2 MiB and 1 GiB


async def test_one_gibibyte_page_is_there(lab: Lab) -> None:
    path = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
    assert (await lab.hosts[0].run(["cat", path])).check().text == "1"


async def test_devices_are_in_groups_of_their_own_and_can_be_handed_on(lab: Lab) -> None:
    script = r"""
    modprobe vfio-pci
    for device in $(lspci -Dn | awk '$3 == "8086:10d3" || $2 == "0108:" {print $1}'); do
        path=/sys/bus/pci/devices/$device
        [ -e $path/driver ] && echo $device > $path/driver/unbind
        echo vfio-pci > $path/driver_override
        echo $device > /sys/bus/pci/drivers_probe
        basename $(readlink $path/driver) >&2
        basename $(readlink $path/iommu_group)
    done
    """
    result = (await lab.hosts[0].run(script)).check()
    groups = result.text.split()
    assert len(groups) == 2 and len(set(groups)) == 2
    assert result.stderr.split() == [b"vfio-pci", b"vfio-pci"]
    for group in groups:
        (await lab.hosts[0].run(["test", "-c", f"/dev/vfio/{group}"])).check()
