"""Whether a VM ran when the switchover stopped it: somebody may pause or resume it during a move.

QEMU stops a VM for the switchover right after a sync, which MIGRATION_PASS announces, and says
`pre-switchover` before it syncs again. So a stop that is followed by one more sync was somebody
else's: the user's, or that of a disk error. What ran goes on at the other side, and only that.
"""

from __future__ import annotations

from vmferry.precopy.sample import Event

_SWITCHES_OVER = frozenset({"pre-switchover", "device", "completed"})


class Running:
    """Follows the source's events. `ran` is the answer so far."""

    def __init__(self, ran: bool) -> None:
        self.ran = ran
        self._stopped = False
        self._over = False

    def receive(self, event: Event) -> None:
        if self._over or event.side != "source":
            return
        if event.name == "STOP":
            self._stopped = True
        elif event.name == "RESUME":
            self._stopped, self.ran = False, True
        elif event.name == "MIGRATION_PASS" and self._stopped:
            self.ran = False
        elif event.name == "MIGRATION":
            self._over = event.data.get("status") in _SWITCHES_OVER
