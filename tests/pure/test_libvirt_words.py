"""libvirt's record of a running VM as evidence: by the alias of each device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmferry.fastpath.finding import Feature, Finding, Level, Verdict
from vmferry.fastpath.libvirt_words import device_words, with_libvirts_words

RECORD = """
<domstatus state='running' pid='1'><domain type='kvm' id='1'><devices>
  <interface type='bridge'><driver name='vhost' queues='4'/><alias name='net0'/></interface>
  <controller type='scsi' model='virtio-scsi'><alias name='scsi0'/></controller>
  <console type='pty'><alias/></console>
</devices></domain></domstatus>
"""


def finding(level: Level, subject: str) -> Finding:
    return Finding(Feature.NET_QUEUES, level, "net-queues", Verdict.OK, "x", (), subject)


def test_a_device_is_found_by_its_alias() -> None:
    assert device_words(RECORD) == {
        "net0": '<interface>: <driver name="vhost" queues="4"/>',
        "scsi0": "<controller>: no <driver>, so the defaults",
    }


def test_what_is_offered_has_it_and_the_rest_has_not() -> None:
    before = [
        finding(Level.OFFERED, "net0"),
        finding(Level.NEGOTIATED, "net0"),
        finding(Level.OFFERED, "net1"),
    ]
    first, *others = with_libvirts_words(before, RECORD)
    assert [str(one) for one in first.evidence] == [
        'libvirt\'s record of it: <interface>: <driver name="vhost" queues="4"/>'
    ]
    assert others == before[1:]
    assert with_libvirts_words(before, None) == before


@given(st.text())
def test_any_text_is_an_answer(text: str) -> None:
    device_words(text)
