"""What the collectors ask of a QEMU's objects, and what they make of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vmferry.fastpath.collect_qom import Asker, Device, read_virtio, virtio_devices
from vmferry.fastpath.collect_storage import read_controllers
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone


class Answers:
    """A QMP that answers from a table, and remembers what it was asked."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table
        self.asked: list[str] = []

    async def __call__(self, command: str, arguments: Mapping[str, Any] | None) -> Any:
        self.asked.append(command)
        answer = self.table.get(command, QmpError(f"The command {command} has not been found"))
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_refusal_has_its_reason() -> None:
    unread: dict[str, str] = {}
    asker = Asker(Answers({"query-kvm": QmpError("no")}), unread)
    assert await asker.ask("kvm", "query-kvm") is None
    assert unread == {"kvm": "QMP query-kvm: no"}
    assert await virtio_devices(asker) == {}
    assert unread["virtio"] == "this QEMU has no x-query-virtio, which came with QEMU 7.2"


async def test_a_qemu_that_has_ended_is_no_refusal() -> None:
    with pytest.raises(QmpGone):
        await Asker(Answers({"x": QmpGone("gone")}), {}).ask("", "x")


STATUS = {
    "vhost-started": True,
    "num-vqs": 5,
    "host-features": {"transports": ["VIRTIO_F_VERSION_1: x"], "dev-features": ["A: a", "B: b"]},
    "guest-features": {"transports": [], "dev-features": ["A: a"]},
    "status": {"statuses": ["VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"]},
}


@pytest.mark.parametrize(("kernel_vhost", "ready"), [(True, 5), (False, None)])
async def test_rings_of_vhost_user_are_never_asked_for(
    kernel_vhost: bool, ready: int | None
) -> None:
    answers = Answers(
        {"x-query-virtio-status": STATUS, "x-query-virtio-queue-status": {"vring-desc": 4096}}
    )
    device = Device("/machine/peripheral/n", "n", "virtio-net-pci", {})
    known = {"/machine/peripheral/n/virtio-backend": "virtio-net"}
    virtio = await read_virtio(Asker(answers, {}), known, device, kernel_vhost)
    assert virtio is not None
    assert (virtio.offered, virtio.taken) == (
        frozenset({"VIRTIO_F_VERSION_1", "A", "B"}),
        frozenset({"A"}),
    )
    assert (virtio.vhost, virtio.driver_ok, virtio.ready) == (True, True, ready)
    assert ("x-query-virtio-queue-status" in answers.asked) is kernel_vhost


async def test_kinds_that_may_abort_a_qemu_are_never_asked_for() -> None:
    answers = Answers({})
    device = Device("/machine/peripheral/n", "n", "vhost-user-device-pci", {})
    known = {"/machine/peripheral/n": "vhost-user-device"}
    assert await read_virtio(Asker(answers, {}), known, device, True) is None
    assert answers.asked == []


@pytest.mark.parametrize(
    ("mapping", "serving", "idle"),
    [
        # As QEMU 10.0 takes it without a word, and shows it, for 2 queues.
        ([{"iothread": "a"}, {"iothread": "b"}, {"iothread": "c"}], ("a", "b"), ("c",)),
        ([{"iothread": "a"}], ("a",), ()),
        ([{"iothread": "a", "vqs": [1]}, {"iothread": "b", "vqs": [0]}], ("a", "b"), ()),
    ],
)
async def test_iothreads_beyond_the_queues_are_idle(
    mapping: list[Any], serving: tuple[str, ...], idle: tuple[str, ...]
) -> None:
    names = {"num-queues": 2, "iothread-vq-mapping": mapping}

    async def answer(command: str, arguments: Mapping[str, Any] | None) -> Any:
        path = "/machine/peripheral"
        if command == "qom-get":
            return names[(arguments or {})["property"]]
        folders = {path: {"d": "child<virtio-blk-pci>"}, f"{path}/d": dict.fromkeys(names, "x")}
        return [
            {"name": name, "type": kind}
            for name, kind in folders.get((arguments or {})["path"], {}).items()
        ]

    read = await read_controllers(Asker(answer, {}), {})
    assert read is not None
    (disk,) = read[0]
    assert (disk.queues, disk.iothreads, disk.idle) == (2, serving, idle)


async def test_a_cd_beside_a_disk_is_no_second_disk() -> None:
    """An installer's or cloud-init's CD is read at boot; it needs neither queue nor thread."""
    root = "/machine/peripheral"
    lists = {
        root: {"s": "child<virtio-scsi-pci>"},
        f"{root}/s": {"num_queues": "uint32", "virtio-backend": "child<virtio-scsi-device>"},
        f"{root}/s/virtio-backend": {"s.0": "child<SCSI>"},
        f"{root}/s/virtio-backend/s.0": {"child[0]": "link<scsi-hd>", "child[1]": "link<scsi-cd>"},
    }
    values = {"num_queues": 2, "child[0]": f"{root}/hd", "child[1]": f"{root}/cd"}

    async def answer(command: str, arguments: Mapping[str, Any] | None) -> Any:
        assert arguments is not None
        if command == "qom-list":
            folder = lists.get(arguments["path"], {})
            return [{"name": name, "type": kind} for name, kind in folder.items()]
        return values[arguments["property"]]

    read = await read_controllers(Asker(answer, {}), {})
    assert read is not None
    (controller,), owners = read
    assert (controller.queues, controller.disks) == (2, 1)
    assert owners == {f"{root}/hd": "s", "hd": "s"}
