"""Numbers and lists as the report's sentences and tables write them."""

import math

ALPHA = 0.05  # a difference is called one below this (Holm's p over the domains)


def number(value: float, digits: int = 4) -> str:
    """0.0424; a dash where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def signed(value: float, digits: int = 4) -> str:
    """+0.0069 or −0.0010, with a minus sign that does not break lines."""
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def interval(low: float, high: float, digits: int = 4) -> str:
    """+0.0035 to +0.0102"""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def p_value(p: float) -> str:
    """p < 0.001 or p = 0.020"""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(parts: list[str], joint: str = "and") -> str:
    """a, b and c"""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {joint} {parts[-1]}"


def named(names: list[str], most: int = 4) -> str:
    """a, b and c; of a long list the first and how many more"""
    if len(names) <= most + 1:
        return listed(names)
    return listed([*names[:most], f"{len(names) - most} more"])


def counted(count: int, word: str) -> str:
    """1 seed, 3 seeds"""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "–"
