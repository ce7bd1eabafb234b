"""A network card seen from outside and from inside the guest, and the words about its queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmferry.fastpath.facts import Card, Facts, GuestCard
from vmferry.fastpath.verdicts import RESTART

# More seldom gain anything, and each costs vectors and kernel memory (Ganeti's `auto` stops there).
MOST_QUEUES = 8
GAIN = (
    "one queue is served by one vCPU and one thread of the host; about 100,000 packets a "
    "second were the ceiling there (Ganeti, 2026)"
)
PRICE = (
    f"{RESTART}; a vector pair and about 64 KiB of kernel memory for each queue; parallel TCP with "
    "packets below 1500 bytes can get slower"
)


@dataclass(frozen=True, slots=True)
class CardPair:
    """A card seen from outside and the same one seen from inside."""

    card: Card | None
    inside: GuestCard | None
    vcpus: int | None

    @property
    def subject(self) -> str:
        return self.card.name if self.card else self.inside.name if self.inside else ""


def pairs_of(facts: Facts) -> list[CardPair] | None:
    cards = facts.vm.cards if facts.vm else None
    inside = facts.guest.cards if facts.guest else None
    vcpus = (len(facts.vm.vcpus) or None) if facts.vm else None
    if vcpus is None and facts.guest:
        vcpus = facts.guest.cpus or None
    if cards is None and inside is None:
        return None
    if cards is None:
        return [CardPair(None, one, vcpus) for one in inside or ()]
    virtio = [card for card in cards if card.model.startswith("virtio")]
    drivers = [one for one in inside or () if one.driver.startswith("virtio")]
    alone = drivers[0] if len(virtio) == 1 and len(drivers) == 1 else None
    return [
        CardPair(
            card,
            _inside(card, inside or ()) if card.mac else alone if card in virtio else None,
            vcpus,
        )
        for card in cards
    ]


def _inside(card: Card, inside: Sequence[GuestCard]) -> GuestCard | None:
    """The guest's card with this address; a device of the host that stands in for it has it too."""
    found = [one for one in inside if one.mac.lower() == card.mac.lower()]
    virtio = card.model.startswith("virtio")
    alike = [one for one in found if one.driver.startswith("virtio") is virtio]
    return next(reversed(alike or found), None)


def queues_in_use(pair: CardPair) -> int | None:
    """Queues that the guest uses."""
    if pair.inside is not None and pair.inside.queues is not None:
        return pair.inside.queues
    card = pair.card
    if card is not None and card.queues == 1:
        return 1
    if card is not None and card.tap is not None and card.tap.multi_queue:
        return card.tap.queues
    return None


def wanted_queues(vcpus: int) -> int:
    return min(vcpus, MOST_QUEUES)


def on_or_off(value: bool | None) -> str:
    return "could not be read" if value is None else "on" if value else "off"


def number(value: int | None) -> str:
    return "?" if value is None else str(value)
