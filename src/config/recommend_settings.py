"""The flags of `recommend.py`, and what they cannot mean."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from src.config.cli import setting
from src.config.dataset_settings import DatasetSettings
from src.config.modes import BLEND, PATHS
from src.io.errors import UserError

INDEXES = ("hnsw", "ivf")
READING = "how to read --events"


def _reading(name: str, help: str = "") -> Any:
    """A flag of make_dataset.py that says how to read the file of new events."""
    metadata = DatasetSettings.__dataclass_fields__[name].metadata
    help = help or metadata["help"].partition("; default")[0]
    text = f"{help}; default: as the dataset was made"
    return setting("", text, group=READING, choices=metadata["choices"])


@dataclass(frozen=True)
class RecommendSettings:
    """The flags of `recommend.py`."""

    run: str = setting("", "run folder of main.py, or bundle of export.py (required)")
    data_dir: str = setting("", "dataset folder, if it has moved since training")
    k: int = setting(10, "items per user and domain")
    out: str = setting(
        "", ".parquet, .csv or .jsonl file; default: recommendations.parquet of the run"
    )
    users: tuple[str, ...] = setting(
        (), "user ids of the log or of --events; default: those of --events, or all of the log"
    )
    users_file: str = setting("", "file with more user ids, one per line")
    domains: tuple[str, ...] = setting((), "domains of the log; default: all")
    serve_path: str = setting(
        "auto",
        "view to rank by; auto: cross, or single in domains where it was clearly better on "
        "validation; blend: both views, recent counts and habit, as weighed on validation",
        choices=("auto", *PATHS, BLEND),
    )
    now: str = setting(
        "",
        "time of the recommendations for --serve_path blend and runs with --time_embedding, "
        "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, UTC: what came before it counts; default: after the "
        "newest event of the log and of --events",
    )
    exclude_seen: bool | None = setting(
        None,
        "exclude the items that the user has in the log or in --events; default: unless at least a "
        "tenth of the test targets are items that the user had before (the command says)",
    )
    at: str = setting(
        "",
        "test: the lists as they would have been at the time of each test target, a query each, "
        "whose items OUT_targets has; protocol as_listed measures them",
        choices=("test",),
    )
    candidates: str = setting(
        "", "file of the only items that may be listed: an id per line, or a table with item_id"
    )
    item_names: str = setting(
        "", "FILE:KEY:COLUMN: add the names of the items from a table; KEY is the column of the id"
    )
    index: str = setting(
        "exact",
        "how the best items are found: exact, or by an index of faiss (requirements-index.txt), "
        "which may miss some; its recall is printed",
        choices=("exact", *INDEXES),
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")

    events: str = setting(
        "",
        "file or folder of new events, in any format of make_dataset.py, also of new users; they "
        "are part of the users' contexts, but counts of all users stay those of the log",
        group="new events",
    )
    format: str = setting(
        "auto",
        "format of the file; auto inspects names and first lines (docs/data.md)",
        group=READING,
        choices=DatasetSettings.__dataclass_fields__["format"].metadata["choices"],
    )
    delimiter: str = _reading("delimiter")
    columns: str = _reading("columns")
    user_col: str = _reading("user_col")
    item_col: str = _reading("item_col")
    domain_col: str = _reading("domain_col")
    domain_from: str = _reading("domain_from")
    time_col: str = _reading("time_col")
    time_unit: str = _reading("time_unit")
    time_format: str = _reading("time_format")
    event_col: str = _reading("event_col", "column of the type of event, for --event_types")
    event_types: tuple[str, ...] = setting(
        (),
        "keep only events of these types (--events of make_dataset.py); default: as the dataset "
        "was made",
        group=READING,
    )
    rating_col: str = _reading("rating_col")
    min_rating: float | None = setting(
        None,
        "keep only events with at least this rating; default: as the dataset was made",
        group=READING,
    )
    max_rejected: float = setting(
        DatasetSettings.max_rejected,
        "largest share of the rows that may be rejected before the command stops",
        group=READING,
    )

    def reading(self) -> dict[str, Any]:
        """The settings of make_dataset.py that are given for --events."""
        given = {name: getattr(self, name) for name in READING_FLAGS}
        given["events"] = self.event_types
        return {name: value for name, value in given.items() if value not in ("", (), None)}


READING_FLAGS = {  # those that make_dataset.py has under the same name
    field.name for field in fields(RecommendSettings) if field.metadata["group"] == READING
} & {field.name for field in fields(DatasetSettings)}


NOT_AT_TEST = ("users", "users_file", "domains", "now", "events", "candidates", "item_names")


def check_flags(settings: RecommendSettings) -> None:
    """UserError for flags that cannot be meant."""
    if not settings.run:
        raise UserError("--run is required, as in --run runs/amazon/syncrec-ce-seed42")
    if settings.k < 1:
        raise UserError(f"--k must be at least 1, not {settings.k}")
    if settings.at:
        for name in NOT_AT_TEST:
            if getattr(settings, name):
                raise UserError(
                    f"--at {settings.at} makes a list for each target of the log; drop --{name}"
                )
    if settings.index in INDEXES:
        if settings.serve_path == BLEND:
            raise UserError(
                f"--index {settings.index} needs --serve_path {' or '.join(PATHS)}: the score of a "
                f"{BLEND} is no product of a query and an item vector"
            )
        for name in ("at", "candidates"):
            if getattr(settings, name):
                raise UserError(f"--{name} needs --index exact, not {settings.index}")
    if not settings.events:
        for name in sorted(settings.reading()):
            flag = "event_types" if name == "events" else name
            if getattr(settings, flag) != getattr(RecommendSettings, flag):
                raise UserError(f"--{flag} says how to read --events; give that too")


NOT_OF_BUNDLE = {
    "at": "has no test targets",
    "data_dir": "needs no dataset",
}


def check_bundle_flags(settings: RecommendSettings) -> None:
    """UserError for flags that cannot be meant where --run is a bundle."""
    for name, why in NOT_OF_BUNDLE.items():
        if getattr(settings, name):
            raise UserError(f"--run {settings.run} is a bundle, which {why}; drop --{name}")
    for name in ("events", "out"):
        if not getattr(settings, name):
            raise UserError(
                f"--run {settings.run} is a bundle, which holds no user; give --{name} too"
            )
    if settings.device not in ("auto", "cpu"):
        raise UserError(
            f"--device {settings.device}: lists from a bundle are computed on the CPU; drop it"
        )


def time_of(settings: RecommendSettings, reads_time: bool) -> int | None:
    """--now in seconds since 1970; None where it is not given. UserError for another form, and
    where nothing reads it: `reads_time` says whether the model does."""
    if not settings.now:
        return None
    if settings.serve_path != BLEND and not reads_time:
        raise UserError(
            f"--now needs --serve_path {BLEND}, or a run with --time_embedding: the other paths "
            "don't read the time"
        )
    try:
        moment = datetime.fromisoformat(settings.now)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp())
    except ValueError:
        raise UserError(
            f"--now {settings.now!r} is no time; write YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, UTC"
        ) from None
