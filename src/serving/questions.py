"""What a service is asked: the body of a request, checked, as a question about known items."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from src.dataset.store.folder import ARRAYS
from src.dataset.store.spelling import as_written
from src.io.json_schema import Count, OptionalKey, schema_error
from src.serving.bundle import Bundle

MAX_BODY = 2**20  # bytes
MAX_EVENTS, MAX_K, MAX_ID = 1000, 1000, 200  # of a request; MAX_ID in characters
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799  # the years 1 to 9999, in seconds since 1970


class BadRequest(Exception):
    """A request that cannot be answered: one sentence, and the HTTP status that says so."""

    def __init__(self, sentence: str, status: int = 422):
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Question:
    """What may interest a user of these events?"""

    items: np.ndarray  # [E] of known items, in the order of the request
    times: np.ndarray  # [E] seconds since 1970
    skipped: int  # events of unknown items
    domains: tuple[int, ...]
    k: int
    exclude_seen: bool
    now: int | None  # seconds since 1970; None: after every event
    user_id: str = ""  # as the log has it; orders events of equal time, and nothing else


def _id(value: Any) -> str:
    valid = type(value) is str and 0 < len(value) <= MAX_ID and _is_unicode(value)
    return "" if valid else f"text of 1 to {MAX_ID} characters"


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, as JSON may."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _time(value: Any) -> str:
    valid = type(value) is int and EARLIEST <= value <= LATEST
    return "" if valid else "whole seconds since 1970, UTC, of the years 1 to 9999"


EVENT = {"item_id": _id, "domain": _id, "time": _time}
BODY = {
    "events": [EVENT],
    "domains": OptionalKey([_id]),
    "k": OptionalKey(Count(1, MAX_K)),
    "exclude_seen": OptionalKey((bool, None)),
    "now": OptionalKey((_time, None)),
    "user_id": OptionalKey((_id, None)),
}


class QuestionReader:
    """Reads the questions to a bundle."""

    def __init__(self, bundle: Bundle, exclude_seen: bool):
        """`exclude_seen`: of a request that does not say."""
        self.bundle, self.exclude_seen = bundle, exclude_seen
        dataset = bundle.dataset
        options = dataset.card["options"]
        self.spelling = options.get("strip", False), options.get("fold_case", False)
        self.shared = options.get("shared_items", False)
        self.numbers = [
            {item_id: first + place for place, item_id in enumerate(ids)}
            for first, ids in self._ids()
        ]
        self.domains = {name: number for number, name in enumerate(dataset.domain_names)}

    def read(self, body: bytes) -> Question:
        """The question of a request's body. BadRequest where there is none."""
        asked = parsed(body)
        events = asked["events"]
        numbers = self._numbers(events)
        now = asked.get("now")
        if now is not None and now < self.bundle.end:
            raise BadRequest(
                f"'now' must be at least {self.bundle.end}, the time up to which the bundle has "
                "counted the log"
            )
        times = np.array([event["time"] for event in events], dtype=np.int64)
        known = numbers > 0
        exclude_seen = asked.get("exclude_seen")
        return Question(
            items=numbers[known].astype(ARRAYS["items"]),
            times=times[known],
            skipped=int((~known).sum()),
            domains=self._domains(asked.get("domains") or list(self.domains)),
            k=asked.get("k", 10),
            exclude_seen=self.exclude_seen if exclude_seen is None else exclude_seen,
            now=now,
            user_id=self._written([asked.get("user_id") or ""])[0],
        )

    def _ids(self) -> list[tuple[int, list[str]]]:
        """The first item number of each domain, and the ids from it on."""
        dataset = self.bundle.dataset
        starts = dataset.item_starts.tolist()
        return [
            (first, dataset.item_ids.slice(first - 1, end - first).to_pylist())
            for first, end in pairwise(starts)
        ]

    def _numbers(self, events: list[dict[str, Any]]) -> np.ndarray:
        """[E] the dense id of each event's item; 0 for an unknown one."""
        items, domains = (
            self._written([event[name] for event in events]) for name in ("item_id", "domain")
        )
        return np.array(
            [self._number(item, domain) for item, domain in zip(items, domains, strict=True)],
            dtype=np.int64,
        )

    def _written(self, texts: list[str]) -> list[str]:
        """Ids as the dataset of the run writes them."""
        return as_written(pa.array(texts, pa.large_string()), *self.spelling).to_pylist()

    def _number(self, item_id: str, domain: str) -> int:
        if self.shared:  # an id is one item, in whatever domain it stands
            return next((ids[item_id] for ids in self.numbers if item_id in ids), 0)
        number = self.domains.get(domain)
        return 0 if number is None else self.numbers[number].get(item_id, 0)

    def _domains(self, names: list[str]) -> tuple[int, ...]:
        for name in names:
            if name not in self.domains:
                raise BadRequest(
                    f"'domains' has a name that the bundle lacks; it has {', '.join(self.domains)}"
                )
        return tuple(sorted({self.domains[name] for name in names}))


def parsed(body: bytes) -> dict[str, Any]:
    """A body that has the form of a question. BadRequest for another one."""
    if len(body) > MAX_BODY:
        raise BadRequest(f"the body has more than {MAX_BODY} bytes", 413)
    try:
        asked = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):  # also what is not UTF-8, or a number of too many digits
        raise BadRequest("the body is no JSON", 400) from None
    if isinstance(asked, dict):
        _check_keys(asked, BODY, "the body")
        events = asked.get("events")
        if isinstance(events, list):
            if len(events) > MAX_EVENTS:
                raise BadRequest(f"'events' has more than {MAX_EVENTS} entries; send the newest")
            for event in events:
                if isinstance(event, dict):
                    _check_keys(event, EVENT, "an event")
    if error := schema_error(asked, BODY):
        raise BadRequest(error)
    return asked


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity are no JSON


def _check_keys(value: dict, schema: dict, what: str) -> None:
    if unknown := value.keys() - schema.keys():
        count = len(unknown)
        raise BadRequest(
            f"{what} has {count} unknown {'key' if count == 1 else 'keys'}; it may have "
            f"{', '.join(schema)}"
        )


def _text(maximum: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": maximum}


TIME = {"type": "integer", "minimum": EARLIEST, "maximum": LATEST}
JSON_SCHEMA: dict[str, Any] = {  # of a body, for OpenAPI; says what BODY says
    "type": "object",
    "required": ["events"],
    "additionalProperties": False,
    "properties": {
        "events": {
            "type": "array",
            "maxItems": MAX_EVENTS,
            "description": "What the user did, in the order in which it was logged. Events of "
            "items that the bundle lacks are skipped.",
            "items": {
                "type": "object",
                "required": list(EVENT),
                "additionalProperties": False,
                "properties": {
                    "item_id": _text(MAX_ID),
                    "domain": _text(MAX_ID),
                    "time": TIME | {"description": "seconds since 1970, UTC"},
                },
            },
        },
        "domains": {
            "type": "array",
            "items": _text(MAX_ID),
            "description": "Domains to list; default and empty: all.",
        },
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 10},
        "exclude_seen": {
            "type": ["boolean", "null"],
            "description": "Leave out the items of the events; default: as the data of the run "
            "says (serving.json).",
        },
        "now": TIME
        | {
            "type": ["integer", "null"],
            "description": "Time of the question; default: after the log's and the user's newest "
            "event. Not before the bundle's counts (/health).",
        },
        "user_id": _text(MAX_ID)
        | {
            "type": ["string", "null"],
            "description": "Id of the user in the log. Orders events of equal time as "
            "recommend.py does, and is used for nothing else; not needed.",
        },
    },
}
