"""Numbers and lists as the sentences and tables of reports show them."""

import math

ALPHA = 0.05  # a difference is significant below this (p after Holm's correction)


def number(value: float, digits: int = 4) -> str:
    """0.0424; a dash for NaN."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def signed(value: float, digits: int = 4) -> str:
    """+0.0069 or −0.0010, with a minus sign that does not break lines; a dash for NaN."""
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def interval(low: float, high: float, digits: int = 4) -> str:
    """+0.0035 to +0.0102"""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def p_value(p: float) -> str:
    """p < 0.001 or p = 0.020"""
    return f"p {p_cell(p)}" if p < 0.001 else f"p = {p_cell(p)}"


def p_cell(p: float) -> str:
    """< 0.001 or 0.020"""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def join_and(parts: list[str]) -> str:
    """a, b and c"""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def join_some(names: list[str], most: int = 4) -> str:
    """a, b and c; a long list is cut: a, b, c, d and 3 more"""
    if len(names) <= most + 1:
        return join_and(names)
    return join_and([*names[:most], f"{len(names) - most} more"])


def count_of(count: int, noun: str) -> str:
    """1 seed, 3 seeds"""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float) -> str:
    """12.5 %; a dash for NaN"""
    return f"{100 * share:.1f} %" if math.isfinite(share) else "–"


def level(value: float) -> str:
    """.535 or .0424: a metric beside others of its size; a dash for NaN"""
    return number(value, 3 if abs(value) >= 0.1 else 4).removeprefix("0")


def relative_change(share: float) -> str:
    """−47 %, 0 %; a dash for NaN"""
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:+z.0f} %".replace("-", "−").replace("+0 %", "0 %")
