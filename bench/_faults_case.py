"""One fault to inject: which, at which stage, on which VM; and what a broken destination is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench._faults_lab import Changes

_LASTS = re.compile(r" (\d+) s$")


@dataclass(frozen=True, slots=True)
class Case:
    """One fault to inject: `fault` at `stage`; `number` tells repetitions apart."""

    fault: str
    stage: str
    disk: bool = False
    proxy: bool = False
    small_state: bool = False
    number: int = 0

    @property
    def kind(self) -> str:
        """The fault without how long it lasts."""
        return _LASTS.sub("", self.fault)

    @property
    def seconds(self) -> float:
        """How long it lasts, for those that end."""
        lasts = _LASTS.search(self.fault)
        return float(lasts[1]) if lasts is not None else 0.0

    @property
    def id(self) -> str:
        where = "+".join(
            word
            for word, is_so in (
                ("disk", self.disk),
                ("proxy", self.proxy),
                ("small-state", self.small_state),
            )
            if is_so
        )
        return f"{self.fault} | {self.stage} | {where or 'plain'} | {self.number}"


_OTHER_SIZE: Changes = (("131080k", "147464k"), (str(131080 << 10), str(147464 << 10)))

# A destination that vmferry starts: what to replace in its command line, and words to add.
BROKEN: dict[str, tuple[Changes, tuple[str, ...]]] = {
    "no such device": ((), ("-device", "no-such-device")),
    "no huge pages": (
        (),
        ("-object", "memory-backend-file,id=huge,size=64M,mem-path=/nowhere/huge,share=on"),
    ),
    "socket in use": ((), ("-chardev", "socket,id=x,path=/proc/none,server=on,wait=off")),
    "other RAM size": (_OTHER_SIZE, ()),
    "other machine": ((("pc-q35-7.2", "pc-q35-6.2"),), ()),
    "other port number": ((("bus=channels.0,nr=1,", "bus=channels.0,nr=5,"),), ()),
}
FAR_MISMATCHES: dict[str, Changes] = {
    "far: other RAM size": _OTHER_SIZE,
    "far: other port number": (("bus=channels.0,nr=1,", "bus=channels.0,nr=5,"),),
}
