"""Ids and domains that differ only in their spelling: `--strip` and `--fold_case`.

Each is defined twice, for tables in an engine and for arrays in memory (src/dataset/store), with
the same result: in DuckDB, Spark and Arrow.
"""

import pyarrow as pa
from ibis.expr.types import StringValue, Table

from src.config.dataset_settings import DatasetSettings
from src.dataset.store.spelling import DOTTED_I, FINAL_SIGMA, PLAIN_I, SIGMA, as_written

# What Arrow calls white space. DuckDB and Spark strip only the blanks of ASCII by themselves; a
# no-break space comes from web pages and spreadsheets.
BLANKS = r"[\t-\r\x1C-\x1F \x{85}\p{Z}]+"


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
    names = as_written(names, settings.strip, settings.fold_case)
    return tuple(dict.fromkeys(names.to_pylist()))
