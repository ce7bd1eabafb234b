"""What does each of the seven fast paths bring, off against on? On a KVM host of the lab.

`./dev bench fastpath [NAME…]`. The host runs `vmferry bench fastpath NAME`, as any KVM host can;
this starts the lab's host (once with VT-d for large-pages), brings it the program for the guests,
and keeps each row as it comes. `--here` measures on this machine instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.host import Host
from lab.lab import Lab
from vmferry.cli.output import table
from vmferry.errors import VmferryError
from vmferry.fastpath.bench.program import program
from vmferry.fastpath.bench.rows import Rows
from vmferry.fastpath.bench.run import Benchmark, report
from vmferry.fastpath.benchmarks import BENCHMARKS

VTD = "large-pages"
_ROWS, _LOAD = "/run/rows.jsonl", "/run/load"
_RUN_SECONDS = 4 * 3600.0
_PREPARE = "modprobe kvm_amd && modprobe tun && modprobe vhost_net && modprobe bridge"
# The first NVMe disk goes to vfio-pci; the lab plugs it in for this.
_BIND = """
modprobe vfio-pci && modprobe vfio_iommu_type1
device=$(lspci -D -n | awk '$2 == "0108:" {print $1; exit}')
echo vfio-pci > /sys/bus/pci/devices/$device/driver_override
[ -e /sys/bus/pci/devices/$device/driver ] &&
    echo $device > /sys/bus/pci/devices/$device/driver/unbind
echo $device > /sys/bus/pci/drivers_probe
ls /dev/vfio
"""


class Kept:
    """The file of rows of one benchmark, fed by what a host prints."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = Rows(file)
        self._text = b""

    def hear(self, data: bytes, of_errors: bool) -> None:
        """Output of `vmferry bench fastpath --json`, as it comes."""
        if of_errors:
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
            return
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self._keep(json.loads(line))

    def _keep(self, row: dict[str, Any]) -> None:
        if row.pop("event") == "row" and row["key"] not in self.rows:
            del row["format"]
            self.rows.add(row)


def words(name: str, options: argparse.Namespace) -> list[str]:
    """The command that a host runs."""
    return [
        *("bench", "fastpath", name, "--json", "--repeats", str(options.repeats)),
        *("--seconds", f"{options.seconds:g}"),
    ]


async def in_the_lab(names: list[str], options: argparse.Namespace) -> None:
    """Measure on a host that is started for it."""
    for vtd in (False, True):
        wanted = [name for name in names if (name == VTD) == vtd]
        if not wanted:
            continue
        async with Lab.up(hosts=1, vtd=vtd, say=lambda text: print(text, file=sys.stderr)) as lab:
            (host,) = lab.hosts
            await prepare(host, vtd=vtd)
            for name in wanted:
                await measure(host, name, options)


async def prepare(host: Host, *, vtd: bool) -> None:
    """Load what the host needs, and bring it the program for its guests. Raises LabError."""
    (await host.run(_BIND if vtd else _PREPARE)).check()
    built = program()
    await host.put(built, _LOAD)
    place = f"~/.cache/vmferry/fastpath-load/{built.parent.name}/{built.name}"
    (await host.run(f"install -D -m 755 {_LOAD} {place}")).check()


async def measure(host: Host, name: str, options: argparse.Namespace) -> Rows:
    """One benchmark on a host; what is in its file already is not run again."""
    kept = Kept(options.out / f"fastpath-{name}.jsonl")
    (await host.run(["rm", "-f", _ROWS])).check()
    if len(kept.rows):
        await host.put(kept.file, _ROWS)
    command = ["vmferry", *words(name, options), "--out", _ROWS]
    done = await host.run(command, timeout=_RUN_SECONDS, on_output=kept.hear)
    if not done.ok:
        sys.stderr.write(f"{name} ended with {done.status}\n")
    return kept.rows


def here(names: list[str], options: argparse.Namespace) -> None:
    """Measure on this machine."""
    for name in names:
        kept = options.out / f"fastpath-{name}.jsonl"
        start = "from vmferry.cli.main import main; main()"
        command = [sys.executable, "-c", start, *words(name, options), "--out", str(kept)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def told(benchmark: Benchmark, rows: Rows) -> str:
    """The table of one benchmark and what it proves."""
    lines = ["", f"{benchmark.name}: {benchmark.question}", table(report(benchmark, rows)), ""]
    return "\n".join([*lines, *benchmark.prove(rows), f"Not shown here: {benchmark.limits}.", ""])


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--here", action="store_true", help="on this machine, not in the lab")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="FOLDER")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no fast path {unknown[0]}")
    names = options.names or list(BENCHMARKS)
    if options.here:
        here(names, options)
    else:
        try:
            asyncio.run(in_the_lab(names, options))
        except VmferryError as error:
            sys.exit("\n".join(filter(None, (error.message, error.hint))))
    for name in names:
        rows = Rows(options.out / f"fastpath-{name}.jsonl")
        sys.stdout.write(told(BENCHMARKS[name], rows))


if __name__ == "__main__":
    main()
