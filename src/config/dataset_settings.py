"""The settings of the data step: flags, help and the record in the data card."""

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isfinite

from src.config.cli import setting
from src.io.errors import UserError
from src.io.names import folder_name_error

# Settings that do not change the content of the dataset
NOT_CONTENT = (
    "data_name", "variant", "raw_dir", "exclude", "out_dir", "temp_dir", "engine", "threads",
    "memory_limit", "spark_master", "describe", "suggest", "max_rejected",
)  # fmt: skip

MAX_THREADS = 1024  # the engine starts as many threads as requested


@dataclass(frozen=True)
class DatasetSettings:
    """The flags of `make_dataset.py`."""

    data_name: str = setting("", "name of the log (required)", group="what and where")
    strd_ym: str = setting(
        "", "YYYYMM (required): events up to the end of this month, UTC", group="what and where"
    )
    until: str = setting(
        "",
        "YYYY-MM-DD: events up to the end of this day, UTC; default: the month's end",
        group="what and where",
    )
    raw_dir: str = setting(
        "",
        "folder, file or glob of the raw log; default: src/dataset/raw/<data_name>",
        group="what and where",
    )
    exclude: tuple[str, ...] = setting(
        (), "files of the folder to leave out, by name or glob", group="what and where"
    )
    out_dir: str = setting(
        "",
        "dataset folder; default: src/dataset/processed/<data_name>/<strd_ym>[-<variant>]",
        group="what and where",
    )
    variant: str = setting(
        "",
        "a name for these options: the folder becomes <strd_ym>-<variant>",
        group="what and where",
    )
    describe: bool = setting(False, "print the data card and write nothing", group="what and where")
    suggest: int = setting(
        0,
        "print filters that keep at least this many users in every domain, and write nothing",
        group="what and where",
    )

    engine: str = setting(
        "duckdb",
        "data engine; the dataset is the same with both",
        group="data engine",
        choices=("duckdb", "spark"),
    )
    threads: int = setting(0, "threads of the engine; 0: all", group="data engine")
    memory_limit: str = setting(
        "",
        "memory limit of the engine, e.g. 4GB, beyond which DuckDB spills to disk; default: 80 %% "
        "of the machine's memory",
        group="data engine",
    )
    temp_dir: str = setting(
        "",
        "folder for intermediate data, removed at the end; default: beside the dataset folder",
        group="data engine",
    )
    spark_master: str = setting(
        "", "cluster of --engine spark; default: local[*], this machine", group="data engine"
    )

    format: str = setting(
        "auto",
        "format of the log; auto inspects file names and first lines (docs/data.md)",
        group="raw log",
        choices=(
            "auto", "table", "syncrec", "amazon2014", "amazon2018", "amazon2023", "diginetica",
            "douban", "foursquare", "goodreads", "hm", "kuairand", "lastfm", "mind", "movielens",
            "otto", "recbole", "rees46", "retailrocket", "steam", "taobao", "tmall", "xwines",
            "yelp", "completejourney",
        ),
    )  # fmt: skip
    delimiter: str = setting(
        "",
        "separator of the columns of text files (tab for a tab); default: detected",
        group="raw log",
    )
    columns: str = setting(
        "",
        "names of the columns of text files without a header, such as "
        "user_id,item_id,-,unix_time (-: not needed)",
        group="raw log",
    )
    user_col: str = setting("user_id", "column of the user", group="raw log")
    item_col: str = setting("item_id", "column of the item", group="raw log")
    domain_col: str = setting("domain", "column of the domain", group="raw log")
    domain_from: str = setting(
        "",
        "FILE:KEY:COLUMN[:SEPARATOR]: take the domain of an item from another table; KEY is the "
        "column of the item, COLUMN that of the domain, which ends at the first SEPARATOR; numbers "
        "from 1 in a file without a header",
        group="raw log",
    )
    time_col: str = setting("unix_time", "column of the time", group="raw log")
    time_unit: str = setting(
        "auto",
        "unit of the times; auto: the unit of most rows, by size; other rows are rejected; "
        "yyyymmdd, mmdd (in the year of --strd_ym): whole numbers that are dates",
        group="raw log",
        choices=(
            "auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "iso", "yyyymmdd",
            "mmdd",
        ),
    )  # fmt: skip
    time_format: str = setting(
        "",
        "form of dates that are not ISO, with the directives of strptime, such as %%d.%%m.%%Y",
        group="raw log",
    )
    event_col: str = setting("event", "column of the type of event, for --events", group="raw log")
    events: tuple[str, ...] = setting(
        (), "keep only events of these types; default: all", group="raw log"
    )
    rating_col: str = setting("rating", "column of the rating, for --min_rating", group="raw log")
    min_rating: float | None = setting(
        None, "keep only events with at least this rating; default: all", group="raw log"
    )
    max_rejected: float = setting(
        0.001,
        "largest share of raw rows that may be rejected before the run stops",
        group="raw log",
    )
    shared_items: bool = setting(
        False,
        "an item id is the same item in all domains, assigned to the one where it occurs most; "
        "default: an id in two domains is two items",
        group="raw log",
    )

    strip: bool = setting(
        False, "ids and domains without the blanks around them: ' ann ' is 'ann'", group="ids"
    )
    fold_case: bool = setting(
        False, "ids and domains in lower case: 'Ann' and 'ANN' are 'ann'", group="ids"
    )

    domains: tuple[str, ...] = setting((), "keep only these domains; default: all", group="filters")
    dedup: str = setting(
        "none",
        "drop repeated events except the first; exact: same user, item, domain and time; "
        "consecutive: same item as the user's previous event; repeats: same item as any earlier "
        "event of the user",
        group="filters",
        choices=("none", "exact", "consecutive", "repeats"),
    )
    max_user_events: int = setting(
        0, "drop users with more events, probably bots (once, first); 0: keep all", group="filters"
    )
    min_user_events: int = setting(
        0,
        "drop users with fewer events (the filters repeat until nothing changes)",
        group="filters",
    )
    min_item_events: int = setting(0, "drop items with fewer events", group="filters")
    min_domains: int = setting(0, "drop users active in fewer domains", group="filters")
    max_len: int = setting(
        0, "keep only the newest events of each user, after the filters; 0: all", group="filters"
    )

    tie_order: str = setting(
        "hashed",
        "order of a user's events of equal time; hashed: by SHA-256, meaningless and reproducible; "
        "as_logged: by file and row, an artefact that models can learn",
        group="sequences",
        choices=("hashed", "as_logged"),
    )
    split: str = setting(
        "leave_one_out",
        "leave_one_out: a user's last event is the test target, the one before it the validation "
        "target; fewer than 3 events are all training data; leave_one_out_per_domain: the same "
        "among a user's events in each domain; temporal: all events after one time, the same for "
        "all users",
        group="sequences",
        choices=("leave_one_out", "leave_one_out_per_domain", "temporal"),
    )
    valid_from: str = setting(
        "",
        "temporal: first month or day of validation, YYYYMM or YYYYMMDD, UTC; requires --test_from",
        group="sequences",
    )
    test_from: str = setting("", "temporal: first month or day of the test", group="sequences")
    valid_share: float = setting(
        0.1, "temporal without dates: share of the events to validate on", group="sequences"
    )
    test_share: float = setting(
        0.1,
        "temporal without dates: share of the events, the newest, to test on",
        group="sequences",
    )

    def __post_init__(self) -> None:
        for name in ("data_name", "strd_ym"):
            if not getattr(self, name):
                raise UserError(f"--{name} is required, as in --data_name amazon --strd_ym 202312")
        for name in ("data_name", "variant"):
            value = getattr(self, name)
            if value and (expected := folder_name_error(value)):
                raise UserError(f"--{name} {value!r} names a folder: use {expected}")
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < 0:
                raise UserError(f"--{name} {value} is negative; give 0 or more")
        if self.threads > MAX_THREADS:
            raise UserError(f"--threads {self.threads} is too large; give at most {MAX_THREADS}")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"--max_rejected must be between 0 and 1, not {self.max_rejected}")
        end_of_log(self)
        _check_reading(self)
        _check_split(self)


def _check_reading(settings: DatasetSettings) -> None:
    """UserError for flags about reading a raw log that cannot be meant."""
    if settings.time_format and settings.time_unit != "auto":
        raise UserError("--time_format and --time_unit contradict each other; give one of them")
    if settings.min_rating is not None and not isfinite(settings.min_rating):
        raise UserError(f"--min_rating must be a number, not {settings.min_rating}")
    if len(settings.delimiter.encode()) > 4 or settings.delimiter in ('"', "\n", "\r", "\0"):
        raise UserError(
            f"--delimiter {settings.delimiter!r} cannot separate columns; give a character, or tab"
        )
    names = [name.strip() for name in settings.columns.split(",")] if settings.columns else []
    for name in names:
        if not name or (name != "-" and names.count(name) > 1):
            raise UserError(
                f"--columns {settings.columns} must name each column once; name one that is not "
                "needed '-'"
            )
    if settings.domain_from:
        if settings.domain_from.count(":") < 2:
            raise UserError(
                f"--domain_from {settings.domain_from!r} must be FILE:KEY:COLUMN, as in "
                "articles.csv:article_id:index_group_name"
            )
        if settings.domain_col != DatasetSettings.domain_col:
            raise UserError(
                "--domain_from and --domain_col contradict each other; give one of them"
            )


def _check_split(settings: DatasetSettings) -> None:
    """UserError for cuts in time that contradict each other or the split."""
    dates = [name for name in ("valid_from", "test_from") if getattr(settings, name)]
    shares = [
        name
        for name in ("valid_share", "test_share")
        if getattr(settings, name) != getattr(DatasetSettings, name)
    ]
    if settings.split != "temporal":
        for name in dates + shares:
            raise UserError(
                f"--{name} needs --split temporal; --split {settings.split} has no cut in time"
            )
        return
    if len(dates) == 1:
        raise UserError(f"--{dates[0]} alone is not enough; give both --valid_from and --test_from")
    if dates and shares:
        raise UserError(f"--{dates[0]} and --{shares[0]} contradict each other; give one of them")
    if dates:
        starts = [first_second(getattr(settings, name), name) for name in dates]
        if starts[0] >= starts[1]:
            raise UserError(
                f"--valid_from {settings.valid_from} is not before --test_from "
                f"{settings.test_from}; validation ends where the test begins"
            )
    for name in ("valid_share", "test_share"):
        if not 0 < getattr(settings, name) < 1:
            raise UserError(f"--{name} must be between 0 and 1, not {getattr(settings, name)}")
    if settings.valid_share + settings.test_share >= 1:
        raise UserError(
            f"--valid_share {settings.valid_share} and --test_share {settings.test_share} leave "
            "nothing to train on; lower them"
        )


def cutoff(strd_ym: str) -> int:
    """The first second after the month YYYYMM, since 1970 UTC; UserError for another form."""
    if not re.fullmatch(r"(19[7-9]\d|[2-9]\d{3})(0[1-9]|1[0-2])", strd_ym):
        raise UserError(f"--strd_ym {strd_ym!r} is not a month; write YYYYMM, as in 202312")
    year, month = int(strd_ym[:4]), int(strd_ym[4:])
    if (year, month) == (9999, 12):
        raise UserError("--strd_ym 999912 has no month after it; choose an earlier one")
    first = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp())


def end_of_log(settings: DatasetSettings) -> int:
    """The first second after the log: after the day --until, or after the month --strd_ym.

    UserError for a day in another form or another month.
    """
    end = cutoff(settings.strd_ym)
    if not settings.until:
        return end
    try:
        day = datetime.strptime(settings.until, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UserError(
            f"--until {settings.until!r} is not a day; write YYYY-MM-DD, as in 2023-12-15"
        ) from None
    if day.strftime("%Y%m") != settings.strd_ym:
        raise UserError(
            f"--until {settings.until} is not in the month --strd_ym {settings.strd_ym}; both name "
            "the end of the log"
        )
    return int(day.timestamp()) + 86_400


def first_second(period: str, flag: str) -> int:
    """The first second of a month YYYYMM or a day YYYYMMDD, since 1970 UTC.

    UserError, naming the flag, for another form.
    """
    if re.fullmatch(r"(19[7-9]\d|[2-9]\d{3})\d\d(\d\d)?", period):
        try:
            day = datetime(int(period[:4]), int(period[4:6]), int(period[6:] or 1), tzinfo=UTC)
            return int(day.timestamp())
        except ValueError:  # a month 13, a day 32
            pass
    raise UserError(
        f"--{flag} {period!r} is not a month or day; write YYYYMM or YYYYMMDD, as in 202312"
    )


def month_of(unix_time: int) -> str:
    """The month YYYYMM of a time."""
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y%m")


def as_date(unix_time: int) -> str:
    """A time as ISO 8601, UTC."""
    return datetime.fromtimestamp(int(unix_time), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def content_options(settings: DatasetSettings, raw_format: str) -> dict:
    """The settings that decide the content, as the card records them; `auto` resolved."""
    options = {name: value for name, value in asdict(settings).items() if name not in NOT_CONTENT}
    lists = {name: sorted(set(options[name])) for name in ("domains", "events")}
    return options | {"format": raw_format} | lists
