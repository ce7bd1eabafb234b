"""`vmferry forecast`: whether a move will converge, how long it takes, how long the VM stands."""

from __future__ import annotations

from dataclasses import replace

from vmferry.cli.case_options import (
    AfterPass,
    Asked,
    Bandwidth,
    CurveOption,
    Downtime,
    Measure,
    MeasureFor,
    OptionalVm,
    To,
    TraceOption,
    measured,
)
from vmferry.cli.options import Json
from vmferry.cli.output import Output

EXIT_STATUS = {"converges": 0, "does-not-converge": 7, "uncertain": 8}


def forecast(
    vm: OptionalVm = None,
    curve: CurveOption = None,
    trace: TraceOption = None,
    after_pass: AfterPass = None,
    bandwidth: Bandwidth = None,
    downtime: Downtime = None,
    to: To = "local",
    measure: Measure = False,
    seconds: MeasureFor = None,
    json: Json = False,
) -> int:
    """Foretell how a move will go, from what was measured.

    Give one of VM, --curve and --trace. Exit status: 0 it converges, 7 it does not, 8 uncertain.
    """
    from vmferry.precopy.forecast import forecast_many
    from vmferry.precopy.forecast_words import describe
    from vmferry.precopy.remedies import describe_remedies, remedies_of

    output = Output(as_json=json)
    asked = measured(
        Asked(vm, curve, trace, after_pass, bandwidth, downtime, to, measure, seconds), output
    )
    found = forecast_many([asked.case])[0]
    lines = describe(found)
    if found.verdict != "converges":
        found = replace(found, remedies=remedies_of(asked.case))
        lines += describe_remedies(asked.case, found.remedies)
    output.record(found.to_json())
    for line in lines:
        output.say(line)
    output.note(f"({asked.source})")
    return EXIT_STATUS[found.verdict]
