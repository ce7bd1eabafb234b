"""What the page writer in the test guest does: the `[testguest]` table of a VM specification."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vmferry.units import UnitError, parse_rate, parse_size

PAGE = 4096
_CHUNK = 2 * 1024**2  # memory is taken in such pieces
_PHASE = re.compile(r"(?:busy|idle):([0-9]+(?:\.[0-9]+)?)")
_MOST_PHASES = 32


def _size(value: object) -> object:
    return _parsed(value, parse_size)


def _rate(value: object) -> object:
    return value if value == "unlimited" else _parsed(value, parse_rate)


def _parsed(value: object, parse: Callable[[str], int]) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except UnitError as error:
        raise ValueError(str(error)) from None


def _is_phase(text: str) -> bool:
    match = _PHASE.fullmatch(text)
    return match is not None and 0.001 <= float(match[1]) <= 1e6


Size = Annotated[int, BeforeValidator(_size), Field(ge=0, le=2**46, multiple_of=PAGE)]
Rate = Annotated[
    Literal["unlimited"] | Annotated[int, Field(ge=0, le=2**46)], BeforeValidator(_rate)
]
Percent = Annotated[int, Field(ge=0, le=99)]


class PageWriterSettings(BaseModel):
    """One load. Sizes in bytes, rates in bytes of dirtied pages per second, shares in per cent.

    `hot_writes` per cent of the writes go to `hot_pages` per cent of the pages; both 0: uniform.
    `content` is what a write does: a page of random words, one changed word, compressible text or
    the same value again. `cold` pages are stamped once, `untouched` ones stay zero. `read_share`
    per cent of the operations only read and check. `phases` such as `busy:5,idle:3` (seconds) are
    repeated. `disk` bytes of the first disk are written with checked blocks at `disk_rate`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    working_set: Size = 64 * 1024**2
    write_rate: Rate = 16 * 1024**2
    hot_writes: Percent = 0
    hot_pages: Percent = 0
    order: Literal["random", "sequential"] = "random"
    content: Literal["random", "one-word", "text", "same"] = "random"
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    read_share: Percent = 0
    phases: str = ""
    cold: Size = 0
    untouched: Size = 0
    disk: Size = 0
    disk_rate: Rate = 1024**2

    @model_validator(mode="after")
    def _agree(self) -> PageWriterSettings:
        if bool(self.hot_writes) != bool(self.hot_pages):
            raise ValueError("hot_writes and hot_pages: set both or neither")
        if self.working_set and self.working_set // PAGE < self.threads:
            raise ValueError("working_set: fewer pages of 4096 bytes than threads")
        phases = self.phases.split(",") if self.phases else []
        if len(phases) > _MOST_PHASES or not all(map(_is_phase, phases)):
            raise ValueError(
                f"phases: '{self.phases}' is not like busy:5,idle:3 "
                f"(0.001 to 1000000 seconds each, at most {_MOST_PHASES} phases)"
            )
        return self

    @property
    def owned_bytes(self) -> int:
        """Guest memory that the page writer takes, its tables among it."""
        areas = (self.working_set, self.cold, self.untouched)
        memory = sum(-(-area // _CHUNK) * _CHUNK for area in areas)
        return memory + 4 * (memory + self.disk) // PAGE

    def wire(self) -> dict[str, int | str]:
        """The settings as the guest's kernel command line and agent take them."""
        return self.model_dump()
