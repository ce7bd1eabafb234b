"""`vmferry xray FILE`: what it says of a stream, in words, in JSON, as a map and as a page."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from tests.stream_encoder import Encoder, small_stream
from vmferry.cli import main
from vmferry.precopy.xray import HeatMap, Region, Row, XRayResult
from vmferry.report.heatmap import heatmap
from vmferry.report.xray_page import render_xray
from vmferry.report.xray_words import PLAIN_SHADES, heat_lines, rows_table

Captured = pytest.CaptureFixture[str]
PAGE = 4096


def hot_stream(sweeps: int = 5) -> bytes:
    """1024 pages, half of them zero; in each further sweep the pages 128 to 191, one byte changed.

    Every fourth of these 64 does not change at all.
    """
    e = Encoder()
    e.configuration()
    e.start()
    e.blocks((b"pc.ram", 1024 * PAGE), (b"<b>&'\"", 16 * PAGE))
    e.close_section()
    e.part()
    for page in range(512):
        e.ordinary(b"pc.ram", page * PAGE, bytes([page % 251] * 64) * 64)
    for page in range(512, 1024):
        e.zero(b"pc.ram", page * PAGE)
    e.zero(b"<b>&'\"", 0)
    e.close_section()
    for sweep in range(1, sweeps):
        e.part()
        for page in range(128, 192):
            content = bytearray(bytes([page % 251] * 64) * 64)
            content[100] ^= sweep if page % 4 else 0
            e.ordinary(b"pc.ram", page * PAGE, bytes(content))
        e.close_section()
    e.end()
    e.close_section()
    e.devices()
    return bytes(e.out)


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    path = tmp_path / "stream"
    path.write_bytes(hot_stream())
    return path


def xray_of(path: Path, capsys: Captured) -> XRayResult:
    assert main.run_command(["xray", str(path), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return XRayResult.from_json(json.loads(line))


def test_a_stream_is_told_in_words(stream: Path, capsys: Captured) -> None:
    assert main.run_command(["xray", str(stream)]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert "SWEEP  ZERO  ORDINARY  XBZRLE  FIRST TIME  SENT AGAIN  UNCHANGED  SENT" in shown
    assert ["1", "513", "512", "0", "1,025", "0", "-", "2.01", "MiB"] in lines
    for sweep in "2345":
        assert [sweep, "0", "64", "0", "0", "64", "25", "%"] in [line[:8] for line in lines]
    assert "sent once: 961 pages, 5 to 8 times: 64 pages" in shown
    assert "hot: pc.ram from 0x80000 to 0xc0000 (256 KiB): 100 % of the bytes sent again" in shown
    assert "25 % of the pages with content that were sent again had not changed" in shown
    assert "zero pages: 40 % of the pages sent (513) were zero" in shown
    assert "zstd-1 would cut sweep 1 by 100 %" in shown


def test_the_record_is_what_was_found(stream: Path, capsys: Captured) -> None:
    result = xray_of(stream, capsys)
    assert (result.by, result.page_size, result.ram_bytes) == ("sweep", PAGE, 1040 * PAGE)
    assert result.total.ordinary == 512 + 4 * 64
    assert result.total.same == 64
    assert sum(map(sum, result.heat.sends)) == 1025 + 4 * 64


def test_standard_input_is_read(
    stream: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = xray_of(stream, capsys).rows
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream.read_bytes())))
    assert main.run_command(["xray", "-", "--json"]) == 0
    assert XRayResult.from_json(json.loads(capsys.readouterr().out)).rows == expected


def test_xbzrle_pages_are_told(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "stream"
    path.write_bytes(small_stream())
    assert main.run_command(["xray", str(path)]) == 0
    assert "XBZRLE is on: its 6 pages took" in capsys.readouterr().out


@pytest.mark.parametrize("length", [0, 3, 100, 5000, 500_000])
def test_a_cut_stream_is_an_error_at_an_offset(stream: Path, length: int, capsys: Captured) -> None:
    stream.write_bytes(stream.read_bytes()[:length])
    assert main.run_command(["xray", str(stream)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    told = ": the migration stream at byte " if length else " is empty"
    assert said.err.startswith(f"vmferry: '{stream}'{told}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "it begins with 0x68656c6c, as no migration stream does"),
        (gzip.compress(small_stream()), "`gzip -dc FILE | vmferry xray -`"),
        (b"\x28\xb5\x2f\xfd\x00\x00", "`zstd -dc FILE | vmferry xray -`"),
        (b'{"t": 0.2, "query-migrate": {}}', "as no migration stream does"),
    ],
)
def test_another_file_is_no_bug(
    tmp_path: Path, content: bytes, said: str, capsys: Captured
) -> None:
    path = tmp_path / "stream"
    path.write_bytes(content)
    assert main.run_command(["xray", str(path)]) == 2
    told = capsys.readouterr()
    assert said in told.err and str(path) in told.err and not told.out


@pytest.mark.parametrize("name", ["nosuch", ".", "", "n" * 5000, "\udcff"])
def test_what_cannot_be_read_is_an_error(name: str, tmp_path: Path, capsys: Captured) -> None:
    assert main.run_command(["xray", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("vmferry: ")


def test_a_page_is_written(stream: Path, tmp_path: Path, capsys: Captured) -> None:
    page = tmp_path / "page.html"
    assert main.run_command(["xray", str(stream), "--report", str(page)]) == 0
    text = page.read_text("utf-8")
    assert 'id="heat-map"' in text
    assert "<td>2.01 MiB</td>" in text
    assert str(page) in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_told_first(stream: Path, capsys: Captured) -> None:
    assert main.run_command(["xray", str(stream), "--report", "/nonexistent/page.html"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "--report: /nonexistent/page.html cannot be written" in said.err


def test_a_page_that_has_too_long_a_name_is_no_bug(stream: Path, capsys: Captured) -> None:
    assert main.run_command(["xray", str(stream), "--report", "x" * 300]) == 2
    assert "cannot be written: File name too long" in capsys.readouterr().err


def test_a_stream_whose_name_is_no_text_has_a_page(stream: Path, tmp_path: Path) -> None:
    odd = stream.rename(tmp_path / "\udcff")
    page = tmp_path / "page.html"
    assert main.run_command(["xray", str(odd), "--report", str(page)]) == 0
    assert "\\udcff</p>" in page.read_text("utf-8")


def test_names_from_the_stream_are_escaped(stream: Path, capsys: Captured) -> None:
    text = render_xray(xray_of(stream, capsys), "<script>alert(1)</script>")
    assert "<script>alert(1)" not in text
    assert "<b>&" not in text


def result_with(rows: int, sends: tuple[tuple[int, ...], ...], per_column: int = 1) -> XRayResult:
    regions = tuple(Region("pc.ram", i * 16 * PAGE, (i + 1) * 16 * PAGE) for i in range(len(sends)))
    return XRayResult(
        by="pass",
        page_size=PAGE,
        ram_bytes=len(sends) * 16 * PAGE,
        memory_bytes=0,
        rows=tuple(Row(n=i + 1) for i in range(rows)),
        repeats=(),
        distinct_resent=0,
        hot=(),
        heat=HeatMap(regions, per_column, sends),
        compress=(),
        delta=None,
        sampled_share=1.0,
    )


def test_the_map_shows_how_much_of_a_region_was_sent() -> None:
    lines = heat_lines(result_with(3, ((16, 16, 8), (16, 1, 0))), 80, 24, PLAIN_SHADES)
    assert lines == ["    pc.ram 0x0  ########++++", "pc.ram 0x10000  ####....    "]


def test_the_map_fits_the_terminal() -> None:
    many = result_with(64, tuple((4,) * 64 for _ in range(100)))
    lines = heat_lines(many, 40, 20, PLAIN_SHADES)
    assert len(lines) == 20
    assert max(map(len, lines)) <= 40


def test_columns_of_several_passes_are_averages() -> None:
    """Three passes in two columns: the last column stands for one."""
    result = result_with(3, ((32, 16),), per_column=2)
    assert result.column_rows == [2, 1]
    figure = heatmap(result)
    assert figure is not None
    (map_,) = figure.data
    assert list(map_.x) == ["1-2", "3"]
    assert [list(row) for row in map_.z] == [[1.0, 1.0]]


def test_no_map_without_pages() -> None:
    assert heatmap(result_with(0, ())) is None
    assert heat_lines(result_with(0, ()), 80, 24, PLAIN_SHADES) == []


def test_a_long_table_is_told_with_its_middle_together() -> None:
    rows = rows_table(result_with(100, ()))
    assert [row[0] for row in rows] == [
        "Pass",
        *map(str, range(1, 9)),
        "9-92",
        *map(str, range(93, 101)),
        "all",
    ]


def test_an_x_ray_of_another_format_is_refused() -> None:
    from vmferry.errors import UsageError

    data = result_with(1, ()).to_json()
    with pytest.raises(UsageError, match="format 2"):
        XRayResult.from_json({**data, "format": 2})
    with pytest.raises(UsageError, match=r"rows\.0\.zero"):
        XRayResult.from_json({**data, "rows": [{"n": 1, "zero": "many"}]})
