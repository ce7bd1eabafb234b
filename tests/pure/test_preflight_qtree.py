"""What QEMU prints of its devices for people, read as QMP has it."""

from __future__ import annotations

from vmferry.preflight.collect_qtree import settings_of

# As QEMU 7.2 prints it, shortened.
TOLD = """\
bus: main-system-bus
  type System
  dev: hpet, id ""
    gpio-in "" 2
    timers = 3 (0x3)
    mmio 00000000fed00000/0000000000000400
  dev: q35-pcihost, id ""
    pci-hole64-size = 34359738368 (32 GiB)
    bus: pcie.0
      type PCIE
      dev: virtio-net-pci, id "nic0"
        disable-legacy = "off"
        vectors = 4 (0x4)
        addr = 1f.3
        romfile = "<null>"
        failover_pair_id = <null>
        class Ethernet controller, addr 00:03.0, pci id 1af4:1000 (sub 1af4:0001)
        bar 0: i/o at 0xc100 [0xc11f]
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-net-device, id ""
            mq = true
            mac = "52:54:00:00:00:01"
            speed = -1 (0xffffffffffffffff)
            vectors = 9 (0x9)
      dev: virtio-scsi-pci, id "scsi0"
        vectors = 3 (0x3)
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-scsi-device, id ""
            num_queues = 1 (0x1)
            iothread-vq-mapping = <omitted>
            bus: scsi0.0
              type SCSI
              dev: scsi-hd, id "hd0"
                lun = 2 (0x2)
                serial = "a \\"quoted\\" id"
      dev: pc-dimm, id "dimm0"
        addr = 4294967296 (0x100000000)
      dev: ich9-ahci, id ""
        addr = 02.0
"""


def test_settings_belong_to_the_device_that_has_the_id() -> None:
    found = settings_of(TOLD)
    assert found.keys() == {"nic0", "scsi0", "hd0", "dimm0"}
    assert found["nic0"] == {
        "disable-legacy": "off",
        "vectors": 4,
        "addr": 0x1F << 3 | 3,
        "romfile": "<null>",
        "failover_pair_id": "",
        "mq": True,
        "mac": "52:54:00:00:00:01",
        "speed": -1,
    }
    # What is on the bus of the device behind it is another device.
    assert found["scsi0"] == {"vectors": 3, "num_queues": 1}
    assert found["hd0"] == {"lun": 2, "serial": 'a \\"quoted\\" id'}
    assert found["dimm0"] == {"addr": 1 << 32}


def test_nothing_is_made_of_something_else() -> None:
    for told in ("", "unknown command: 'info qtree'", "dev: x", 'dev: x, id "a"\nb = 1\n'):
        assert not any(settings_of(told).values())
