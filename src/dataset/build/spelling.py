"""Ids and domains that differ only in their spelling: `--strip` and `--fold_case`.

Each is defined twice, for tables in an engine and for arrays in memory, with the same result: in
DuckDB, Spark and Arrow.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ibis.expr.types import StringValue, Table

from src.config.dataset_settings import DatasetSettings

Strings = Any  # pa.Array or pa.ChunkedArray; pyarrow has no types

# What Arrow calls white space. DuckDB and Spark strip only the blanks of ASCII by themselves; a
# no-break space comes from web pages and spreadsheets.
BLANKS = r"[\t-\r\x1C-\x1F \x{85}\p{Z}]+"
DOTTED_I, PLAIN_I = "\u0130", "i\u0307"
FINAL_SIGMA, SIGMA = "\u03c2", "\u03c3"  # Spark writes the first at the end of a word


def simplified(events: Table, settings: DatasetSettings) -> Table:
    """The events with user_id, item_id and domain as `--strip` and `--fold_case` write them."""
    if not (settings.strip or settings.fold_case):
        return events

    def simple(text: StringValue) -> StringValue:
        text = text.re_replace(f"^{BLANKS}|{BLANKS}$", "") if settings.strip else text
        if not settings.fold_case:
            return text
        return text.replace(DOTTED_I, PLAIN_I).lower().replace(FINAL_SIGMA, SIGMA)

    names = ("user_id", "item_id", "domain")
    return events.mutate(**{name: simple(events[name]) for name in names})


def chosen_domains(settings: DatasetSettings) -> tuple[str, ...]:
    """The domains of `--domains`, written as those of `simplified` events."""
    names = pa.array(settings.domains, pa.string())
    names = without_blanks(names) if settings.strip else names
    names = in_lower_case(names) if settings.fold_case else names
    return tuple(dict.fromkeys(names.to_pylist()))


def without_blanks(texts: Strings) -> Strings:
    """The texts without the blanks around them."""
    return pc.utf8_trim_whitespace(texts)


def in_lower_case(texts: Strings) -> Strings:
    """The texts in lower case."""
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:  # null for no text
        return pc.utf8_lower(texts)
    lower = pc.utf8_lower(pc.replace_substring(texts, DOTTED_I, PLAIN_I))
    return pc.replace_substring(lower, FINAL_SIGMA, SIGMA)
