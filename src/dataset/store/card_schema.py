"""What a data card must hold: to open a dataset, to print the card, to report on it."""

import re
from typing import Any

from src.dataset.store.card_text import TARGET_AUDIT
from src.io.json_schema import Count, Each, Maybe, Names, misfit, name_fault

LONGEST_FOLDER = 200  # of 255 bytes that file systems allow; temporary ones have longer names
MOST_ITEMS = 2**31 - 2  # ids are int32, and 0 is padding
MOST_DOMAINS = 2**15 - 1  # int16
RESERVED = {"macro", "users"}  # what the means over domains are called beside them


def folder_name_fault(name: Any) -> str:
    """What a name must be to name a folder; empty where it does."""
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return "" if len(name) <= LONGEST_FOLDER else f"at most {LONGEST_FOLDER} letters"
    return "letters, digits, '.', '_' and '-'"


def sha256_fault(value: Any) -> str:
    """What a SHA-256 must be, which is also a part of file names; empty where it is one."""
    fits = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)
    return "" if fits else "64 digits in hex"


SHARE = {"events": Count(), "share": float}
# what every reader of a folder needs
OPENED: dict[str, Any] = {
    "format": Count(),
    "data_name": folder_name_fault,
    "sha256": sha256_fault,
    "users": Count(1),
    "items": Count(1, MOST_ITEMS),
    "events": Count(1),
    "domains": Names({"items": Count(1, MOST_ITEMS)}, least=1),
    "split": Maybe({"protocol": Maybe(str)}),
    "notes": Maybe(Each(str)),
}
DOMAIN = {"users": Count(), "items": Count(1), "events": Count(), "mean_length": float}
# what the negative-transfer report shows of it
REPORTED: dict[str, Any] = {
    "sha256": str,
    "users": Count(),
    "items": Count(),
    "events": Count(),
    "domains": Names(DOMAIN, least=1),
    "overlap": Names(Names(Count()), least=1),
    "split": {
        "protocol": str,
        "valid_events": Count(),
        "test_events": Count(),
        "cold_test_items": Count(),
    },
    "notes": Each(str),
    "tie_order": str,
    "audit": Maybe(Each(SHARE)),
    "dropped": Maybe(Each(Count())),
}
# what the console shows of a folder that stands already
PRINTED: dict[str, Any] = {
    **REPORTED,
    "rows": Count(),
    "time_range": {"first": str, "last": str},
    "times": Maybe(str),
    "rejected": Maybe(Each(Count())),
    "similar_ids": Maybe(Each(Count())),
    "split": {
        **REPORTED["split"],
        "valid_from": Maybe(str),
        "test_from": Maybe(str),
        "cold_test_targets": Maybe(Count()),
        "cold_test_users": Maybe(Count()),
        "targets": Maybe(Each({"valid": Count(), "test": Count()})),
    },
    "audit": {
        "ties": SHARE,
        "ties_across_domains": SHARE,
        **dict.fromkeys(TARGET_AUDIT, Maybe(SHARE)),
    },
    "dropped": Each(Count()),
}
# what tells one folder from another
COMPARED = {"format": Count(), "options": dict, "raw_files": [dict]}


# entries of a split that came together, in one version
TOGETHER = (("valid_from", "test_from"), ("cold_test_targets", "cold_test_users"))


def domain_fault(name: str) -> str:
    """Why a domain cannot be called so; empty where it can."""
    return "is that of a mean in the results" if name in RESERVED else name_fault(name)


def card_misfit(card: Any, shape: dict[str, Any]) -> str:
    """Where a card is not of a shape, or its parts are not of the same domains; empty where it
    is."""
    if fault := misfit(card, shape):
        return fault
    names = card.get("domains", {}).keys()
    if len(names) > MOST_DOMAINS:
        return f"it has {len(names)} domains, and {MOST_DOMAINS} are the most"
    for name in names:
        if name in RESERVED:
            return f"the domain name {name!r} {domain_fault(name)}"
    if "overlap" in shape:
        overlap = card["overlap"]
        if overlap.keys() != names or any(row.keys() != names for row in overlap.values()):
            return "'overlap' is of other domains than 'domains'"
        for pair in TOGETHER:
            if len(card["split"].keys() & set(pair)) == 1:
                return f"'split' has one of {' and '.join(pair)} alone"
        targets = card["split"].get("targets")
        if targets is not None and isinstance(targets, dict) and targets.keys() != names:
            return "the targets of 'split' are of other domains than 'domains'"
    return ""
