"""Recorded migrations: one JSON object a line (format 1).

    {"vmferry": {"format": 1, …}}                     first line, where vmferry wrote it
    {"t": 1.2, "query-migrate": {raw QMP reply}}      the only kind that is required
    {"t": 1.2, "event": {raw QMP event}, "side": "source"}
    {"t": 1.2, "action": {…}, "result": …}
    {"t": 1.2, "parameters" | "guest" | "host" | "stage": …}
    {"t": 1.2, "forecast": {…}}                       what was foretold then; at 0, before the start
    {"t": 1.2, "rehearsal" | "profile" | "xray": …}   what a rehearsal found, at its end

`t` is in seconds since migrate was issued. Reads and writes lines, never files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vmferry.errors import UsageError
from vmferry.precopy.sample import Event, Sample

FORMAT = 1
Kind = Literal[
    "parameters", "action", "guest", "host", "stage", "forecast", "rehearsal", "profile", "xray"
]
_KINDS = ("query-migrate", "event", *get_args(Kind))
_COUNTERS = (
    "total",
    "transferred",
    "remaining",
    "normal",
    "duplicate",
    "page-size",
    "dirty-sync-count",
    "dirty-pages-rate",
    "mbps",
    "precopy-bytes",
    "downtime-bytes",
    "postcopy-bytes",
)
_TIMES = ("total-time", "downtime", "expected-downtime", "setup-time", "cpu-throttle-percentage")
# What is read of parameters, of the limits in the header, and of actions.
_PARAMETERS = ("max-bandwidth", "downtime-limit", "max-cpu-throttle")
_LIMITS = ("bandwidth", "downtime_limit_ms")
_CHANGES = ("bytes_per_second", "milliseconds")
# Figures beyond these are mistakes, and would overflow or take for ever. QEMU counts in 64 bits.
_MOST_SECONDS, _MOST_COUNT = 1e8, 2**64
_MOST = {
    "page-size": 2**30,
    "dirty-sync-count": 10**6,
    "pass": 10**6,
    "cpu-throttle-percentage": 99,
    "max-cpu-throttle": 99,
}


class TraceError(UsageError):
    """The text is not a recorded trace; the message names the line and what is wrong there."""


@dataclass(frozen=True, slots=True)
class Note:
    """A line that is neither sample nor event. `result` is what became of an action."""

    t: float
    kind: Kind
    value: Any
    result: Any = None


Item = Sample | Event | Note


@dataclass(frozen=True, slots=True)
class Trace:
    """A recording: its header (empty where another program wrote it) and its lines in order."""

    header: Mapping[str, Any]
    items: tuple[Item, ...]

    @property
    def inputs(self) -> tuple[Sample | Event, ...]:
        """What a PassTracker, a Progress or a policy is fed with."""
        return tuple(item for item in self.items if not isinstance(item, Note))


def read_trace(lines: Iterable[str], name: str = "trace") -> Trace:
    """The recording in `lines`; `name` is what the errors call it. Raises TraceError."""
    header: Mapping[str, Any] = {}
    items: list[Item] = []
    number = 0
    try:
        for line in lines:
            number += 1
            if not line.strip():
                continue
            value = _object(line)
            if "vmferry" in value:
                if items or header:
                    raise _Wrong("the header belongs on the first line, once")
                header = _header(value)
            else:
                items.append(_item(value))
    except UnicodeDecodeError:
        raise TraceError(f"{name}, after line {number}: this is not UTF-8 text") from None
    except _Wrong as wrong:
        raise TraceError(f"{name}, line {number}: {wrong}") from None
    if not any(isinstance(item, Sample) for item in items):
        raise TraceError(
            f"{name} holds no query-migrate line",
            hint='a trace needs lines such as {"t": 0.2, "query-migrate": {…}}',
        )
    return Trace(header, tuple(items))


def item_of(line: Mapping[str, Any]) -> Item:
    """The item of one line that is parsed already. Raises TraceError."""
    try:
        return _item(line)
    except _Wrong as error:
        raise TraceError(str(error)) from None


def header_line(header: Mapping[str, Any]) -> str:
    """The first line of a recording, without its line end."""
    return _dumped({"vmferry": {"format": FORMAT, **header}})


def to_line(item: Item) -> str:
    """One line of a recording, without its line end."""
    line: dict[str, Any] = {"t": round(item.t, 6)}
    if isinstance(item, Sample):
        line["query-migrate"] = dict(item.raw) or _reply(item)
    elif isinstance(item, Event):
        line["event"] = {"event": item.name, "data": dict(item.data)}
        line["side"] = item.side
    else:
        line[item.kind] = item.value
        if item.kind == "action":
            line["result"] = item.result
    return _dumped(line)


class _Wrong(Exception):
    """What is wrong with the line at hand."""


def _object(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise _Wrong(f"{constant} is not a number in JSON")

    try:
        value = json.loads(line, parse_constant=refuse)
    except ValueError as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise _Wrong(f"this is not JSON ({what})") from None
    except RecursionError:
        raise _Wrong("this is nested too deeply") from None
    if not isinstance(value, dict):
        raise _Wrong(f"a line must be a JSON object, not {_named(value)}")
    return value


def _header(line: Mapping[str, Any]) -> Mapping[str, Any]:
    header = line["vmferry"]
    if not isinstance(header, dict):
        raise _Wrong(f"'vmferry' must be an object, not {_named(header)}")
    version = header.get("format", FORMAT)
    if version != FORMAT:
        raise _Wrong(f"format {version} is not known; this vmferry reads format {FORMAT}")
    _check_settings(header.get("limits"), _LIMITS, "limits.")
    return header


def _item(line: Mapping[str, Any]) -> Item:
    kinds = [kind for kind in _KINDS if kind in line]
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none of them"
        raise _Wrong(f"a line holds one of {', '.join(_KINDS)}; here is {found}")
    if "t" not in line:
        raise _Wrong("'t' is missing: seconds since migrate was issued")
    t = line["t"]
    if isinstance(t, bool) or not isinstance(t, int | float) or not _finite(t):
        raise _Wrong(f"'t' must be a number of seconds, not {_named(t)}")
    if abs(t) > _MOST_SECONDS:
        raise _Wrong(f"'t' must be seconds since migrate was issued, no time of day: it is {t:g}")
    kind, value = kinds[0], line[kinds[0]]
    if kind == "query-migrate":
        return _sample(float(t), value)
    if kind == "event":
        return _event(float(t), value, line.get("side", "source"))
    if kind == "parameters":
        _check_settings(value, _PARAMETERS, "parameters.")
    elif kind == "action":
        _check_settings(value, _CHANGES, "action.")
    for known in get_args(Kind):
        if kind == known:
            return Note(float(t), known, value, line.get("result"))
    raise AssertionError(kind)


def _sample(t: float, reply: Any) -> Sample:
    if not isinstance(reply, dict):
        raise _Wrong(f"'query-migrate' must be an object, not {_named(reply)}")
    if "status" in reply and not isinstance(reply["status"], str):
        raise _Wrong(f"'status' must be a text, not {_named(reply['status'])}")
    if "error-desc" in reply and not isinstance(reply["error-desc"], str):
        raise _Wrong(f"'error-desc' must be a text, not {_named(reply['error-desc'])}")
    ram = reply.get("ram", {})
    if not isinstance(ram, dict):
        raise _Wrong(f"'ram' must be an object, not {_named(ram)}")
    for key in _COUNTERS:
        _check_count(ram, key, "ram.")
    for key in (*_TIMES, "remaining"):
        _check_count(reply, key, "")
    if ram.get("page-size", 4096) < 1:
        raise _Wrong("'ram.page-size' must be positive")
    return Sample.from_reply(t, reply)


def _event(t: float, event: Any, side: Any) -> Event:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise _Wrong('\'event\' must be a QMP event such as {"event": "STOP"}')
    data = event.get("data", {})
    if not isinstance(data, dict):
        raise _Wrong(f"the event's 'data' must be an object, not {_named(data)}")
    if side not in ("source", "destination"):
        raise _Wrong(f"'side' must be source or destination, not {_named(side)}")
    if event["event"] == "MIGRATION_PASS":
        if "pass" not in data:
            raise _Wrong("a MIGRATION_PASS event must tell its 'pass'")
        _check_count(data, "pass", "data.")
    return Event(t, event["event"], data, side)


def _check_settings(values: Any, keys: Sequence[str], where: str) -> None:
    """Those of `keys` that are there and not null; others are nobody's concern here."""
    for key in keys if isinstance(values, Mapping) else ():
        if values.get(key) is not None:
            _check_count(values, key, where)


def _check_count(values: Mapping[str, Any], key: str, where: str) -> None:
    value, most = values.get(key, 0), _MOST.get(key, _MOST_COUNT)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= most:
        raise _Wrong(f"'{where}{key}' must be a number from 0 to {most}, not {_named(value)}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _named(value: Any) -> str:
    """The value as the reader wrote it, cut short."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"


def _reply(sample: Sample) -> dict[str, Any]:
    """The reply that a sample stands for, where no QEMU wrote it (the simulated hypervisor)."""
    reply: dict[str, Any] = {"status": sample.status}
    if sample.total:
        reply["total-time"] = sample.total_time_ms
        reply["cpu-throttle-percentage"] = sample.throttle
        reply["ram"] = {
            "total": sample.total,
            "transferred": sample.transferred,
            "remaining": sample.remaining,
            "normal": sample.normal_pages,
            "duplicate": sample.zero_pages,
            "page-size": sample.page_size,
            "dirty-sync-count": sample.sync_count,
            "dirty-pages-rate": sample.dirty_pages_rate,
            "mbps": sample.mbps,
            "precopy-bytes": sample.precopy_bytes,
            "downtime-bytes": sample.downtime_bytes,
            "postcopy-bytes": sample.postcopy_bytes,
        }
    for key, value in (
        ("downtime", sample.downtime_ms),
        ("expected-downtime", sample.expected_downtime_ms),
        ("setup-time", sample.setup_ms),
        ("error-desc", sample.error),
    ):
        if value is not None:
            reply[key] = value
    return reply


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
