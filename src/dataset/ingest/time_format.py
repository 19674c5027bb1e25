"""Dates in a form that the user describes, with the directives of strptime.

Read by regular expressions and integer arithmetic, as ISO dates are, so that every engine reads the
same; the date functions of engines disagree.
"""

import re
from datetime import datetime

from src.io.errors import UserError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NUMBER = "[0-9]{1,2}"
# directive: (part of a time, or "" for text that is not needed; what it matches)
DIRECTIVES = {
    "Y": ("year", "[0-9]{4}"),
    "y": ("short_year", "[0-9]{2}"),
    "m": ("month", NUMBER),
    "b": ("month_name", "[A-Za-z]{3,9}"),
    "B": ("month_name", "[A-Za-z]{3,9}"),
    "d": ("day", NUMBER),
    "H": ("hour", NUMBER),
    "I": ("hour_of_12", NUMBER),
    "p": ("half", "[AaPp][Mm]"),
    "M": ("minute", NUMBER),
    "S": ("second", NUMBER),
    "f": ("", "[0-9]{1,9}"),
    "z": ("zone", "Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}"),
    "a": ("", "[A-Za-z]{2,9}"),
    "A": ("", "[A-Za-z]{2,9}"),
}
# Usual formats, for messages: days, times after them, and both in one
DAYS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%Y/%m/%d",
    "%d %b %Y",
    "%b %d, %Y",
    "%B %d, %Y",
)
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S.%f")
WHOLE = ("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z")
EXAMPLE = "--time_format '%d.%m.%Y %H:%M'"


def guess_format(text: str) -> str:
    """A usual format in which a text is a date, or ""; in 3/4/2024 the day comes first."""
    formats = [*(day + time for day in DAYS for time in TIMES), *WHOLE]
    return next((form for form in formats if _is_date(text.strip(), form)), "")


def _is_date(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def compile_format(text: str) -> tuple[str, dict[str, int]]:
    """The regular expression of a format, and {part: its group, from 1}.

    UserError for an unknown directive, one that occurs twice, and a format without a whole date.
    """
    pattern = ""
    groups: dict[str, int] = {}
    position = 0
    for match in re.finditer(r"%(.?)|\s+", text):
        pattern += re.escape(text[position : match.start()])
        position = match.end()
        if match[1] is None:
            pattern += r"\s+"
        elif match[1] == "%":
            pattern += "%"
        elif match[1] not in DIRECTIVES:
            raise UserError(
                f"--time_format {text!r}: unknown directive %{match[1]}; known are "
                f"{' '.join(f'%{name}' for name in DIRECTIVES)}"
            )
        else:
            part, of_part = DIRECTIVES[match[1]]
            if part in groups:
                raise UserError(f"--time_format {text!r} has two directives for the {part}")
            pattern += f"({of_part})" if part else f"(?:{of_part})"
            if part:
                groups[part] = len(groups) + 1
    pattern += re.escape(text[position:])
    has = groups.keys()
    if not ({"year", "short_year"} & has and {"month", "month_name"} & has and "day" in has):
        raise UserError(f"--time_format {text!r} needs a year, a month and a day, as in {EXAMPLE}")
    if ("hour_of_12" in has) != ("half" in has):
        raise UserError(f"--time_format {text!r}: %I and %p belong together")
    return f"^{pattern}$", groups
