"""A configured VM as text that people can take elsewhere: QEMU's command line or libvirt's XML."""

from __future__ import annotations

import shlex

from vmferry.fastpath.configured import Configured
from vmferry.fastpath.facts import HostFacts
from vmferry.fastpath.finding import Feature
from vmferry.host.paths import instances_dir
from vmferry.hypervisor.qemu.command_line import command_line, mac_address
from vmferry.hypervisor.qemu.instance import InstanceFiles
from vmferry.hypervisor.qemu.networks import taps_by_hand
from vmferry.testguest.build import GuestImage, build
from vmferry.vm.libvirt_xml import libvirt_xml
from vmferry.vm.spec import VmSpec

# Where an instance's folder would be, which is named when it is made.
_INSTANCE = "INSTANCE"
# For a fast path of which `configure` had nothing to say.
_NOTHING = {
    Feature.NET_QUEUES: "nothing to set: there is no virtio card on a bridge",
    Feature.SCSI_QUEUES: "nothing to set: there is no disk",
    Feature.ZERO_COPY: "nothing to set: it is a parameter of the host's module vhost_net",
    Feature.PV_SPINLOCKS: "nothing to set",
    Feature.LARGE_PAGES: "nothing to set: there is no device of the host's",
    Feature.CLOCK: "nothing to set",
    Feature.MIGRATION_THREAD: "nothing to set: QEMU always has it, and no vCPU is pinned",
}


def as_qemu(configured: Configured) -> str:
    """QEMU's command line for a shell; before it, as comments, what `run` does by itself: the
    folder, taps, bridges, pins. Builds the test guest where that is what boots. Raises UsageError,
    BuildError."""
    spec = configured.spec
    files = InstanceFiles(instances_dir() / _INSTANCE)
    by_hand = taps_by_hand(spec)
    words = {index: tap.words for index, tap in by_hand.items()}
    line = command_line(spec, files, _image(spec), words, incoming=False)
    # Two cards may be on one bridge.
    made = dict.fromkeys(command for tap in by_hand.values() for command in tap.commands)
    before = [f"mkdir -m 700 -p {shlex.quote(str(files.folder))}", *made]
    if spec.cpu.pin:
        cpus = ",".join(map(str, spec.cpu.pin))
        before.append(f"`taskset -p` later: vCPUs on CPUs {cpus}, other threads off these")
    return "\n".join([*(f"# {command}" for command in before), _for_a_shell(line)])


def as_libvirt(configured: Configured, host: HostFacts) -> str:
    """libvirt's XML, with the reasons for each of the seven. Builds as `as_qemu` does."""
    notes = {
        feature.value: [one.text for one in configured.reasons if one.feature is feature]
        or [_NOTHING[feature]]
        for feature in Feature
    }
    spec = configured.spec
    # libvirt would draw others, and the guest would take its cards for new ones.
    nics = [
        nic.model_copy(update={"mac": nic.mac or mac_address(spec.name, index)})
        for index, nic in enumerate(spec.nic)
    ]
    spec = spec.model_copy(update={"nic": tuple(nics)})
    return libvirt_xml(spec, _image(spec), host.cpus, notes)


def _image(spec: VmSpec) -> GuestImage | None:
    return build() if spec.is_testguest else None


def _for_a_shell(words: list[str]) -> str:
    """An option and its value to a line."""
    text = shlex.quote(words[0])
    for word in words[1:]:
        text += (" \\\n    " if word.startswith("-") else " ") + shlex.quote(word)
    return text
