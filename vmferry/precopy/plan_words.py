"""A plan in words: its settings, what they cost, and why one of them is to be taken."""

from __future__ import annotations

import math
from collections.abc import Callable

from vmferry.precopy.case import Setting
from vmferry.precopy.forecast_words import odds
from vmferry.precopy.plan import Plan, Row, Wishes, more_bandwidth, throttled_by
from vmferry.precopy.quantiles import Quantiles
from vmferry.units import format_duration, format_rate, format_size

HEADINGS = ("", "SETTING", "CONVERGES", "TOTAL", "DOWNTIME", "SENT", "COST")
VERDICTS = {"converges": "yes", "does-not-converge": "no", "uncertain": "perhaps"}
MARK, NOTHING = "*", "-"
NOT_SEEN, AS_ASKED = "(not seen)", "as asked"
_FLAGS = {"xbzrle": "XBZRLE", "auto_converge": "auto-converge", "post_copy": "post-copy"}
# A cap within this of what was reached is no other speed.
_ABOUT = 1.1


def cells(row: Row, plan: Plan, reached: float) -> tuple[str, ...]:
    """The row of the table. `reached` is what the way was seen to carry, bytes per second."""
    forecast = row.forecast
    return (
        MARK if row == plan.best else "",
        setting_words(row.setting, plan.asked.setting, reached),
        f"{VERDICTS[forecast.verdict]}, {odds(forecast.p_converge)}",
        interval(forecast.total_ms, _milliseconds),
        interval(forecast.downtime_ms, _milliseconds),
        interval(forecast.bytes, format_size),
        cost_words(row, plan.asked.setting),
    )


def is_seen(bandwidth: int, reached: float) -> bool:
    """Whether the way was seen to carry that much; no cap asks for no speed."""
    return bandwidth <= _ABOUT * reached


def asked_words(asked: Setting, reached: float) -> str:
    """All of what was asked for."""
    parts = [_bandwidth(asked, reached), f"limit {_milliseconds(asked.downtime_limit_ms)}"]
    if asked.throttle:
        parts.append(f"throttle {asked.throttle:.0f} %")
    flags = {
        asked.compress: asked.compress,
        "XBZRLE": asked.xbzrle,
        "auto-converge": asked.auto_converge,
        "post-copy": asked.post_copy,
    }
    parts += [name for name, is_on in flags.items() if is_on]
    return f"As asked: {', '.join(parts)}. Each row changes what it names."


def setting_words(setting: Setting, asked: Setting, reached: float) -> str:
    """What is different from what was asked for."""
    parts = []
    if setting.bandwidth != asked.bandwidth:
        parts.append(_bandwidth(setting, reached))
    if setting.downtime_limit_ms != asked.downtime_limit_ms:
        parts.append(f"limit {_milliseconds(setting.downtime_limit_ms)}")
    if setting.throttle != asked.throttle:
        parts.append(f"throttle {setting.throttle:.0f} %")
    if setting.compress != asked.compress:
        parts.append(setting.compress or "no compression")
    for name in ("xbzrle", "auto_converge", "post_copy"):
        now = getattr(setting, name)
        if now != getattr(asked, name):
            parts.append(_FLAGS[name] if now else f"no {_FLAGS[name]}")
    return ", ".join(parts) or AS_ASKED


def cost_words(row: Row, asked: Setting) -> str:
    """What the setting takes from the VM and the hosts, in a few words; empty for nothing."""
    setting, total = row.setting, row.forecast.total_ms
    parts = []
    if setting.post_copy:
        parts.append("the VM waits for pages, and is lost if the link breaks")
    if setting.throttle:
        meanwhile = f" for up to {_milliseconds(total.p90)}" if total is not None else ""
        parts.append(f"the VM is slowed by {setting.throttle:.0f} %{meanwhile}")
    elif setting.auto_converge:
        parts.append("QEMU slows the VM until it converges")
    if setting.compress and setting.compress != asked.compress:
        capped = ", which does not keep to the cap" if setting.bandwidth else ""
        parts.append(f"CPU; multifd{capped}")
    if setting.xbzrle and not asked.xbzrle:
        parts.append("CPU, and a cache at the source")
    if more_bandwidth(setting, asked) > 1:
        parts.append("more of the link")
    return "; ".join(parts)


def reached_words(plan: Plan, reached: float) -> list[str]:
    """What `(not seen)` means, where the table has it."""
    if all(is_seen(row.setting.bandwidth, reached) for row in plan.rows):
        return []
    if not reached:
        return [f"{NOT_SEEN}: nothing was seen of this way yet; `vmferry probe` measures it."]
    return [f"{NOT_SEEN}: more than this way was seen to carry, which is {format_rate(reached)}."]


def recommended_words(plan: Plan, wishes: Wishes) -> str:
    """Which row to take and why, in a sentence or two; or that there is none, and what would do."""
    limits = _limits(wishes)
    if plan.best is None:
        text = f"None of these settings, nor any of them together, keeps to {limits}"
        text += " in nine of ten cases."
        options = [_option(one, wishes) for one in plan.enough]
        return f"{text} {' or '.join(options)} would be enough." if options else text
    asked, best = plan.asked, plan.best
    if best == asked:
        return f"Recommended ({MARK}): as asked. It keeps to {limits} in nine of ten cases."
    name = setting_words(best.setting, asked.setting, math.inf)
    return (
        f"Recommended ({MARK}): {name}. It keeps to {limits} in nine of ten cases;"
        f" {_reason(best.setting, asked.setting)}. As asked {_wrong_with(asked, wishes)}."
    )


def _reason(best: Setting, asked: Setting) -> str:
    """What the settings that cost less do not do."""
    if best.post_copy and not asked.post_copy:
        return "nothing without post-copy does"
    if best.throttle > asked.throttle:
        return "without post-copy, nothing with less throttle does"
    if more_bandwidth(best, asked) > 1:
        return (
            "without throttle and post-copy, nothing within the"
            f" {format_rate(asked.bandwidth)} asked for does"
        )
    if (best.compress, best.xbzrle) != (asked.compress, asked.xbzrle):
        return "without it only more bandwidth, throttle or post-copy would"
    return "it needs no more bandwidth, throttle or compression, and no post-copy"


def _wrong_with(asked: Row, wishes: Wishes) -> str:
    """Why what was asked for is not recommended."""
    forecast, setting = asked.forecast, asked.setting
    total, downtime = forecast.total_ms, forecast.downtime_ms
    if total is None or downtime is None or forecast.verdict == "does-not-converge":
        return "it does not converge"
    if not wishes.met_by(setting, forecast):
        if downtime.p90 > wishes.max_downtime_ms:
            return f"the VM may stand still for {_milliseconds(downtime.p90)}"
        if wishes.deadline is not None and total.p90 > wishes.deadline * 1000:
            return f"it may take {_milliseconds(total.p90)}"
        if setting.auto_converge and throttled_by(setting) > wishes.max_throttle:
            return f"auto-converge may throttle it by up to {throttled_by(setting):.0f} %"
        if setting.throttle > wishes.max_throttle:
            return f"it is throttled by {setting.throttle:.0f} %"
        if setting.post_copy and not wishes.post_copy:
            return "it is a post-copy"
        return f"the odds that it converges are {odds(forecast.p_converge)}"
    return "it costs more"


def _bandwidth(setting: Setting, reached: float) -> str:
    if not setting.bandwidth:
        return "no cap"
    text = f"bandwidth {format_rate(setting.bandwidth)}"
    return text if is_seen(setting.bandwidth, reached) else f"{text} {NOT_SEEN}"


def _limits(wishes: Wishes) -> str:
    text = f"a downtime of at most {_milliseconds(wishes.max_downtime_ms)}"
    if wishes.deadline is not None:
        text += f" and {format_duration(wishes.deadline)} in all"
    return text


def _option(enough: Wishes, wishes: Wishes) -> str:
    if enough.max_downtime_ms != wishes.max_downtime_ms:
        return f"--max-downtime {_typed(enough.max_downtime_ms)}"
    if enough.deadline is not None and enough.deadline != wishes.deadline:
        return f"--deadline {_typed(enough.deadline * 1000)}"
    if enough.max_throttle != wishes.max_throttle:
        return f"--max-throttle {enough.max_throttle:.0f}"
    return "--post-copy allowed"


def _typed(milliseconds: float) -> str:
    """As an option takes it, and no less."""
    if milliseconds < 1000:
        return f"{math.ceil(milliseconds)}ms"
    return f"{math.ceil(milliseconds / 100) / 10:g}s"


def interval(value: Quantiles | None, shown: Callable[[float], str]) -> str:
    """What eight of ten cases lie between; the unit once where both have the same."""
    if value is None:
        return NOTHING
    low, high = shown(value.p10), shown(value.p90)
    if low == high:
        return low
    (number, _, unit), (_, _, last) = low.partition(" "), high.partition(" ")
    return f"{number if unit == last and ' ' not in unit else low} to {high}"


def _milliseconds(value: float) -> str:
    return format_duration(value / 1000)
