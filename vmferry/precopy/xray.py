"""What an X-ray of a migration stream found (format 1). How it is found: vmferry.stream.xray."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from vmferry.errors import UsageError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Row:
    """The pages of one pass or sweep; `n` counts from 1.

    `zero`, `ordinary` and `xbzrle` add up to all pages, and so do `first` (sent for the first time)
    and `resent`. Of the `resent_ordinary` pages among these, `compared` could be compared with what
    was sent before, and `same` had not changed. `bytes` and `resent_bytes` are on the wire.
    """

    n: int
    zero: int = 0
    ordinary: int = 0
    xbzrle: int = 0
    first: int = 0
    resent: int = 0
    resent_ordinary: int = 0
    compared: int = 0
    same: int = 0
    bytes: int = 0
    resent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Repeats:
    """`pages` pages were sent `low` to `high` times each, `sends` times in all."""

    low: int
    high: int
    pages: int
    sends: int


@dataclass(frozen=True, slots=True)
class Region:
    """Addresses `start` to `end` (exclusive) of a RAM block, in bytes."""

    block: str
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class HotRegion(Region):
    """A region whose pages were sent again most often; `share` is of all bytes sent again."""

    resent_bytes: int
    share: float


@dataclass(frozen=True, slots=True)
class HeatMap:
    """How often pages were sent: `sends[region][column]`, a column for `per_column` rows.

    The first column begins with row 1.
    """

    regions: tuple[Region, ...] = ()
    per_column: int = 1
    sends: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Compression:
    """What a zstd level makes of pages that are not zero.

    Ratios are bytes before by bytes after, of pages sent for the first time and of pages sent
    again; None: none was measured. The CPU time is per GiB of such pages: at 1 GiB/s it is the
    number of cores, of the machine that measured it. `sampled` is in pages.
    """

    level: int
    ratio: float
    first_ratio: float | None
    again_ratio: float | None
    cpu_seconds_per_gib: float
    sampled: int

    @property
    def name(self) -> str:
        """`zstd-1`."""
        return f"zstd-{self.level}"


@dataclass(frozen=True, slots=True)
class Delta:
    """What XBZRLE makes of pages that are sent again, by `sampled` of them.

    `ratio` is the mean encoded size by the page's size: an ordinary page sent instead of an
    encoding that is too long (`overflow` is their share) counts 1, an unchanged page (`unchanged`)
    0. `usable` is the share of the ordinary pages sent again whose earlier version QEMU would have
    kept: it keeps none of those that pass 1 sent (`xbzrle_started` in its migration/ram.c), so a
    page counts from the third time on; `usable_ratio` is the ratio of the sampled ones of these.
    """

    ratio: float
    overflow: float
    unchanged: float
    sampled: int
    usable: float
    usable_ratio: float | None


@dataclass(frozen=True, slots=True)
class XRayResult:
    """All of it. `by` tells whether `rows` are QEMU's passes or sweeps of a file.

    A sweep ends when a page comes that it has had already. Counts are exact; what looks into pages
    rests on `sampled_share` of the pages with content. Sizes in bytes; `distinct_resent` is how
    many different pages were sent more than once. `delta` is None where nothing was measured, as in
    a stream with XBZRLE pages, whose deltas take `xbzrle_bytes`. `late_marks` passes were told so
    late that their first pages are in the row before.
    """

    by: Literal["pass", "sweep"]
    page_size: int
    ram_bytes: int
    memory_bytes: int
    rows: tuple[Row, ...]
    repeats: tuple[Repeats, ...]
    distinct_resent: int
    hot: tuple[HotRegion, ...]
    heat: HeatMap
    compress: tuple[Compression, ...]
    delta: Delta | None
    sampled_share: float
    xbzrle_bytes: int = 0
    late_marks: int = 0

    @property
    def total(self) -> Row:
        """All rows together; its `n` is their number."""
        return self.sum_of(self.rows)

    @property
    def column_rows(self) -> list[int]:
        """How many rows each column of the heat map stands for: the last may have fewer."""
        firsts = range(0, len(self.rows), self.heat.per_column)
        return [min(self.heat.per_column, len(self.rows) - first) for first in firsts]

    @staticmethod
    def sum_of(rows: Sequence[Row]) -> Row:
        """Some rows together; its `n` is their number."""
        names = [field.name for field in dataclasses.fields(Row) if field.name != "n"]
        sums = {name: sum(getattr(row, name) for row in rows) for name in names}
        return Row(n=len(rows), **sums)

    @property
    def compress_ratios(self) -> dict[str, float]:
        """`{"zstd-1": 1.8}`, as the dirty curve has them."""
        return {one.name: one.ratio for one in self.compress}

    @property
    def xbzrle_ratio(self) -> float | None:
        """As the dirty curve has it: the part of a page that XBZRLE sends when it is sent again."""
        return None if self.delta is None else self.delta.ratio

    def to_json(self) -> dict[str, Any]:
        """`{"format": 1, …}`."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> XRayResult:
        """What `to_json` wrote; keys of a later version are passed over. Raises UsageError."""
        if data.get("format") != FORMAT:
            raise UsageError(
                f"this X-ray has format {data.get('format')!r}; this vmferry reads {FORMAT}"
            )
        try:
            return _adapter().validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"this is no X-ray: {where}: {first['msg']}") from None


@functools.cache
def _adapter() -> TypeAdapter[XRayResult]:
    return TypeAdapter(XRayResult)
