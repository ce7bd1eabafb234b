"""Does the lab start every time, and how fast? 50 starts in a row from the prepared state.

A start is what `./dev lab up` does and one script on each host; the lab is ended before the next.
What has not answered after a minute is a hang. `first` is the start that builds and prepares what
is missing: run it on an empty cache (`./dev lab clean`) to measure from nothing.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time

from bench._bench_results import Results, Row, open_results
from lab import image as images
from lab.errors import LabError
from lab.lab import Lab

STARTS = 50
HANG_SECONDS = 60.0
BAR_FIRST, BAR_SECONDS = 300.0, 15.0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


async def _up() -> None:
    async with Lab.up(say=_say) as lab:
        (await lab.hosts[0].run("test -c /dev/kvm")).check()


def first() -> Row:
    """From what the cache has now."""
    built = images.find() is not None
    start = time.monotonic()
    asyncio.run(_up())
    return {"seconds": time.monotonic() - start, "built": built}


def again() -> Row:
    """From the prepared state; a start that hangs is a row too."""

    async def limited() -> str | None:
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await _up()
        except TimeoutError:
            return "hang"
        except LabError as error:
            return error.message
        return None

    # Where the sources have changed since, that is no start.
    images.build(_say)
    start = time.monotonic()
    trouble = asyncio.run(limited())
    return {
        "seconds": time.monotonic() - start,
        "trouble": trouble,
        "load": round(os.getloadavg()[0], 1),
    }


def measure_all(results: Results) -> None:
    """Make the starts that are missing."""
    results.once("first", first)
    for number in range(STARTS):
        results.once(f"start/{number}", again)


def report(results: Results) -> None:
    """Print the figures beside the bars."""
    row = results["first"]
    what = "from the cache" if row["built"] else "from nothing"
    print(
        f"first start, {what}: {row['seconds']:.0f} s (bar: under {BAR_FIRST:.0f} s from nothing)"
    )
    rows = [row for row in results if row["key"] != "first"]
    seconds = sorted(row["seconds"] for row in rows if not row["trouble"])
    failed = [row for row in rows if row["trouble"]]
    if seconds:
        print(
            f"{len(rows)} starts from the prepared state: {len(failed)} failed; "
            f"least {seconds[0]:.1f} s, median {statistics.median(seconds):.1f} s, "
            f"most {seconds[-1]:.1f} s (bar: under {BAR_SECONDS:.0f} s, none fails)"
        )
    for row in failed:
        print(f"  {row['key']}: {row['trouble']}")


def main() -> None:
    results = open_results(__doc__, "lab_starts")
    measure_all(results)
    report(results)


if __name__ == "__main__":
    main()
