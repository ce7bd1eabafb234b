"""Recorded migrations: what is written reads back, what is malformed is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.precopy.sample import Event, Sample
from vmferry.precopy.trace import Item, Note, TraceError, header_line, read_trace, to_line

DATA = Path(__file__).parents[1] / "data"
GOOD = '{"t": 0.2, "query-migrate": {"status": "active"}}'


def test_a_recording_reads_back_as_written() -> None:
    lines = (DATA / "pg-4t-converges-1.jsonl").read_text(encoding="utf-8").splitlines()
    trace = read_trace(lines)
    assert trace.header == {}
    assert len(trace.items) == len(lines)
    assert read_trace(to_line(item) for item in trace.items).items == trace.items
    assert [json.loads(to_line(item)) for item in trace.items] == [json.loads(x) for x in lines]


def test_all_kinds_of_line_read_back() -> None:
    items: tuple[Item, ...] = (
        Note(0.0, "stage", "passes"),
        Note(0.0, "parameters", {"max-bandwidth": 1}),
        Event(0.1, "MIGRATION_PASS", {"pass": 1}),
        Event(0.15, "RESUME", {}, "destination"),
        Sample(0.2, "active", total=4096, normal_pages=1, sync_count=1, downtime_ms=3, mbps=1.5),
        Note(0.3, "action", {"kind": "abandon"}, None),
        Note(0.4, "guest", {"beats": 3}),
        Note(0.5, "host", {"cpu": 1}),
    )
    lines = [header_line({"run": "r1"}), *(to_line(item) for item in items), "", "\n"]
    trace = read_trace(lines)
    assert trace.header == {"format": 1, "run": "r1"}
    assert trace.items == items
    assert trace.inputs == items[2:5]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("nonsense", "this is not JSON"),
        ('{"t": 0.2, "query-migrate": {"status"', "this is not JSON"),
        ("[1]", "a line must be a JSON object, not [1]"),
        ("{}", "here is none of them"),
        ('{"t": 1, "event": {}, "guest": {}}', "here is event and guest"),
        ('{"query-migrate": {}}', "'t' is missing"),
        ('{"t": "soon", "query-migrate": {}}', "'t' must be a number of seconds, not \"soon\""),
        ('{"t": true, "query-migrate": {}}', "'t' must be a number of seconds, not true"),
        ('{"t": NaN, "query-migrate": {}}', "NaN is not a number"),
        ('{"t": 1e999, "query-migrate": {}}', "'t' must be a number of seconds"),
        ('{"t": 1, "query-migrate": []}', "'query-migrate' must be an object"),
        ('{"t": 1, "query-migrate": {"status": 3}}', "'status' must be a text, not 3"),
        ('{"t": 1, "query-migrate": {"ram": 3}}', "'ram' must be an object, not 3"),
        ('{"t": 1, "query-migrate": {"ram": {"normal": "x"}}}', "'ram.normal' must be a number"),
        ('{"t": 1, "query-migrate": {"ram": {"normal": -1}}}', "'ram.normal' must be a number"),
        ('{"t": 1, "query-migrate": {"ram": {"normal": true}}}', "'ram.normal' must be a number"),
        ('{"t": 1, "query-migrate": {"ram": {"page-size": 0}}}', "must be positive"),
        ('{"t": 1, "query-migrate": {"total-time": null}}', "'total-time' must be a number"),
        ('{"t": 1, "event": "STOP"}', "'event' must be a QMP event"),
        ('{"t": 1, "event": {"event": "STOP", "data": 1}}', "'data' must be an object"),
        ('{"t": 1, "event": {"event": "STOP"}, "side": "left"}', "'side' must be source or"),
        ('{"t": 1, "event": {"event": "MIGRATION_PASS"}}', "must tell its 'pass'"),
        (
            '{"t": 1, "event": {"event": "MIGRATION_PASS", "data": {"pass": "a"}}}',
            "'data.pass' must be a number",
        ),
        ('{"t": 1790000000, "query-migrate": {}}', "'t' must be seconds since migrate was issued"),
        ('{"t": 1, "query-migrate": {"error-desc": 5}}', "'error-desc' must be a text, not 5"),
        ('{"t": 1, "query-migrate": {"cpu-throttle-percentage": 250}}', "a number from 0 to 99"),
        ('{"t": 1, "query-migrate": {"ram": {"dirty-sync-count": 1e18}}}', "from 0 to 1000000"),
        ('{"t": 1, "query-migrate": {"ram": {"page-size": 1e300}}}', "'ram.page-size' must be"),
        ('{"t": 1, "parameters": {"max-bandwidth": "100M"}}', "'parameters.max-bandwidth' must be"),
        ('{"t": 1, "parameters": {"downtime-limit": 1e999}}', "'parameters.downtime-limit' must"),
        ('{"t": 1, "action": {"bytes_per_second": "x"}}', "'action.bytes_per_second' must be"),
        ('{"vmferry": {}}', "the header belongs on the first line"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_malformed_line_is_named(line: str, what: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace([GOOD, "", line], name="run.jsonl")
    assert str(caught.value).startswith("run.jsonl, line 3: ")
    assert what in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ('{"vmferry": 3}', "'vmferry' must be an object"),
        ('{"vmferry": {"format": 2}}', "format 2"),
        ('{"vmferry": {"limits": {"bandwidth": 1e999}}}', "'limits.bandwidth' must be a number"),
    ],
)
def test_a_wrong_header_is_refused(header: str, what: str) -> None:
    with pytest.raises(TraceError, match=what):
        read_trace([header, GOOD])


def test_a_trace_without_a_sample_is_refused() -> None:
    with pytest.raises(TraceError, match="no query-migrate line"):
        read_trace([header_line({}), '{"t": 0, "stage": "setup"}'])


def test_a_binary_file_is_refused() -> None:
    def lines() -> Iterator[str]:
        yield GOOD
        b"\xff".decode("utf-8")

    with pytest.raises(TraceError, match="after line 1: this is not UTF-8"):
        read_trace(lines())


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_value_in_a_reply_is_read_or_refused(value: object) -> None:
    for reply in ({"status": value}, {"ram": {"total": 1, "normal": value}}, {"downtime": value}):
        line = json.dumps({"t": 1, "query-migrate": reply})
        try:
            trace = read_trace([line])
        except TraceError as error:
            assert "line 1" in error.message
        else:
            assert len(trace.inputs) == 1
