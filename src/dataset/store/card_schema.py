"""Schemas of a data card: to open a dataset, to reuse a folder, to print the card, to report."""

import re
from typing import Any

from src.dataset.store.card_text import TARGET_AUDIT
from src.io.json_schema import Count, MapOf, NamedMap, OptionalKey, name_error, schema_error
from src.io.names import folder_name_error

MAX_ITEMS = 2**31 - 2  # ids are int32, and 0 is padding
MAX_DOMAINS = 2**15 - 1  # int16
RESERVED = {"macro", "users"}  # the names of the means over domains in the results


def sha256_error(value: Any) -> str:
    """What a SHA-256, which also goes into file names, must be; empty for a valid one."""
    valid = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)
    return "" if valid else "64 hexadecimal digits"


def shown_name_error(value: Any) -> str:
    """What a name that reports show must be; empty for a valid one."""
    valid = isinstance(value, str) and not name_error(value)
    return "" if valid else "a name that can be shown"


SHARE = {"events": Count(), "share": float}
# what every reader of a folder needs
OPEN_SCHEMA: dict[str, Any] = {
    "format": Count(),
    "data_name": folder_name_error,
    "sha256": sha256_error,
    "users": Count(1),
    "items": Count(1, MAX_ITEMS),
    "events": Count(1),
    "domains": NamedMap({"items": Count(1, MAX_ITEMS)}, min_entries=1),
    "split": OptionalKey({"protocol": OptionalKey(str)}),
    "notes": OptionalKey(MapOf(str)),
    "audit": OptionalKey({"repeat_targets": OptionalKey(SHARE)}),
}
DOMAIN = {"users": Count(), "items": Count(1), "events": Count(), "mean_length": float}
# what the transfer report shows
REPORT_SCHEMA: dict[str, Any] = {
    "data_name": OptionalKey(shown_name_error),
    "sha256": str,
    "users": Count(),
    "items": Count(),
    "events": Count(),
    "domains": NamedMap(DOMAIN, min_entries=1),
    "overlap": NamedMap(NamedMap(Count()), min_entries=1),
    "split": {
        "protocol": str,
        "valid_events": Count(),
        "test_events": Count(),
        "cold_test_items": Count(),
    },
    "notes": MapOf(str),
    "tie_order": str,
    "audit": OptionalKey(MapOf(SHARE)),
    "dropped": OptionalKey(MapOf(Count())),
}
DATA_NOTE = {
    "key": str, "what": str, "count": Count(), "of": Count(), "share": float, "example": str,
    "flag": str, "advice": str,
}  # fmt: skip
# what the console shows of a folder that is reused
CONSOLE_SCHEMA: dict[str, Any] = {
    **REPORT_SCHEMA,
    "rows": Count(),
    "time_range": {"first": str, "last": str},
    "times": OptionalKey(str),
    "rejected": OptionalKey(MapOf(Count())),
    "similar_ids": OptionalKey(MapOf(Count())),
    "data_notes": OptionalKey([DATA_NOTE]),
    "split": {
        **REPORT_SCHEMA["split"],
        "valid_from": OptionalKey(str),
        "test_from": OptionalKey(str),
        "cold_test_targets": OptionalKey(Count()),
        "cold_test_users": OptionalKey(Count()),
        "targets": OptionalKey(MapOf({"valid": Count(), "test": Count()})),
    },
    "audit": {
        "ties": SHARE,
        "ties_across_domains": SHARE,
        **dict.fromkeys(TARGET_AUDIT, OptionalKey(SHARE)),
    },
    "dropped": MapOf(Count()),
}
# what decides whether a folder can be reused
REUSE_SCHEMA = {"format": Count(), "options": dict, "raw_files": [{"name": str}], "cutoff": str}

# pairs of entries of a split that were added in one version
PAIRS = (("valid_from", "test_from"), ("cold_test_targets", "cold_test_users"))


def domain_name_error(name: str) -> str:
    """Why a domain cannot have this name; empty where it can."""
    return "is reserved for a mean in the results" if name in RESERVED else name_error(name)


def card_error(card: Any, schema: dict[str, Any]) -> str:
    """How a card violates a schema or contradicts itself about domains; empty if it is valid."""
    if error := schema_error(card, schema):
        return error
    names = card.get("domains", {}).keys()
    if len(names) > MAX_DOMAINS:
        return f"it has {len(names)} domains; at most {MAX_DOMAINS} are allowed"
    for name in names:
        if name in RESERVED:
            return f"the domain name {name!r} {domain_name_error(name)}"
    if "overlap" in schema:
        overlap = card["overlap"]
        if overlap.keys() != names or any(row.keys() != names for row in overlap.values()):
            return "'overlap' and 'domains' name different domains"
        for pair in PAIRS:
            if len(card["split"].keys() & set(pair)) == 1:
                return f"'split' has only one of {' and '.join(pair)}"
        targets = card["split"].get("targets")
        if targets is not None and isinstance(targets, dict) and targets.keys() != names:
            return "'split' → 'targets' and 'domains' name different domains"
    return ""
