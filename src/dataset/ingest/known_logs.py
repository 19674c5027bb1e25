"""Published logs as downloaded: a table of what their files look like, and how they are read.

File names, columns and forms of time are the publishers' own; docs/data.md has their addresses and
says what could not be confirmed. A new log is one entry in KNOWN_LOGS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import ibis
from ibis.expr.types import Table

from src.dataset.ingest import times
from src.dataset.ingest.json_keys import first_keys, keys_of_lines, parse_object
from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.raw_format import (
    SPLIT_PART,
    Columns,
    RawLog,
    Source,
    check_columns,
    complete_columns,
    domain_column,
    domains_from_file_names,
    list_files,
    read_text_files,
    text_before,
    wanted_columns,
)
from src.dataset.ingest.table_reader import TextLayout
from src.dataset.ingest.text_head import split_line

ASIN = "(?:B[0-9A-Z]{9}|[0-9]{9}[0-9X])"
TWITTER_TIME = "%a %b %d %H:%M:%S %z %Y"  # Tue Apr 03 18:00:09 +0000 2012
NO_CATEGORY = "no category"


@dataclass(frozen=True)
class KnownLog:
    """The files of one publication of a log.

    A file is recognised by its name and its first line: by `keys` that are in its header or in its
    first JSON object, or, for a file without a header, by a regular expression.
    """

    files: str  # names of its tables; the group `domain`, if any, is the domain of a file
    columns: Columns  # `domain` "": the name of the file, or of the log
    keys: tuple[str, ...] = ()
    without: tuple[str, ...] = ()  # keys that show another log
    line: str = ""  # a first line of a file without a header
    header: tuple[str, ...] = ()  # the columns of a file without a header
    delimiter: str = ","
    quoted: bool = False
    json: bool = False  # one object per line
    encoding: str = ""
    time_unit: str = "auto"
    time_format: str = ""
    domain_until: str = ""  # the domain is the part of its column before this
    beside: str = r"(?!)"  # names of the publisher's other files
    read: Callable[[Source, "KnownLog", list[RawFile], dict[str, str]], Table] | None = None

    def recognise(self, lines: list[str]) -> str:
        """What in the first lines of a file shows the log, or ""."""
        if not lines:
            return ""
        if self.line:
            shows = all(re.fullmatch(self.line, line) for line in lines[:20])
            return "lines such as " + lines[0][:60] if shows else ""
        keys = first_keys(lines) if self.json else set(split_line(lines[0], self.delimiter))
        if not set(self.keys) <= keys or keys & set(self.without):
            return ""
        kind = "JSON lines" if self.json else "a header"
        return f"{kind} with {', '.join(self.keys)}"


# --- reading -----------------------------------------------------------------------------------


def read_known_log(source: Source, name: str) -> RawLog:
    """The events of a known log, whose files may be of several of its publications."""
    files: dict[KnownLog, list[RawFile]] = {}
    for file in source.files:
        files.setdefault(_publication(source, file, name), []).append(file)
    tables = []
    for log, its_files in files.items():
        log = replace(log, columns=replace(log.columns, **source.columns.given()))
        domains = {}
        if not log.columns.domain and "?P<domain>" in log.files:
            domains = domains_from_file_names(its_files, re.compile(log.files))
        wanted = wanted_columns(
            source, log.columns, bool(log.columns.domain) and not source.domain_from_side_file
        )
        table = (log.read or _read)(source, log, its_files, wanted)
        if source.domain_from_side_file:
            domain = {}
        elif log.columns.domain:
            domain = {"domain": _until(table.domain, log.domain_until)}
        else:
            domain = {"domain": domain_column(table, domains) if domains else ibis.literal(name)}
        tables.append(complete_columns(table, **domain))
    first = next(iter(files))
    return RawLog(
        ibis.union(*tables),
        source.reader,
        source.files,
        replace(first.columns, **source.columns.given()),
        f"{name} {list_files(source.files)}",
        time_unit=first.time_unit,
        time_format=first.time_format,
    )


def recognise_known_log(name: str, table: str, lines: list[str]) -> str:
    """What in the name and the first lines of a file shows the log, or ""."""
    reasons = (log.recognise(lines) for log in KNOWN_LOGS[name] if re.fullmatch(log.files, table))
    return next(filter(None, reasons), "")


def _publication(source: Source, file: RawFile, name: str) -> KnownLog:
    """The entry that describes a file: the one that its lines show, or else the first by name."""
    logs = [log for log in KNOWN_LOGS[name] if re.fullmatch(log.files, file.table)]
    lines = source.reader.first_lines(file) if len(logs) > 1 else []
    return next((log for log in logs if log.recognise(lines)), logs[0])


def _read(source: Source, log: KnownLog, files: list[RawFile], wanted: dict[str, str]) -> Table:
    if log.json:
        _check_keys(source, files, wanted)
        is_python = any(_is_python(source.reader.first_lines(file)) for file in files)
        return source.reader.json_lines(files, wanted, python=is_python)
    layouts = {file: _layout(source, log, file) for file in files}
    return ibis.union(*read_text_files(source, layouts, wanted))


def _layout(source: Source, log: KnownLog, file: RawFile) -> TextLayout:
    header = log.header
    if not header:
        lines = source.reader.first_lines(file)
        header = tuple(split_line(lines[0], log.delimiter)) if lines else ()
    return TextLayout(header, log.delimiter, log.quoted, not log.header, encoding=log.encoding)


def _check_keys(source: Source, files: list[RawFile], wanted: dict[str, str]) -> None:
    """UserError for a key that a flag names and no object has."""
    given = {name: key for name, key in wanted.items() if key in source.columns.given().values()}
    for file in files if given else ():
        keys = keys_of_lines(source.reader.first_lines(file), file.path)
        check_columns(file, keys, given, source.columns)


def _is_python(lines: list[str]) -> bool:
    """Whether lines are dictionaries as Python writes them, not JSON."""
    return bool(lines) and re.match(r"\{u?'", lines[0]) is not None and bool(parse_object(lines[0]))


def _until(domain: ibis.expr.types.StringValue, end: str) -> ibis.expr.types.StringValue:
    """The part of the domain before `end`; a missing domain gets a name."""
    if not end:
        return domain
    return text_before(domain, end).nullif("").fill_null(NO_CATEGORY)


def _read_mind(
    source: Source, log: KnownLog, files: list[RawFile], wanted: dict[str, str]
) -> Table:
    """The clicks in the impressions, written N1-1 N2-0; the history before them has no times."""
    shown = _read(source, log, files, wanted)
    split = shown.mutate(shown=shown.item_id.split(" "))
    single = split.mutate(index_in_row=ibis.range(split.shown.length()).unnest())
    single = single.mutate(one=single.shown[single.index_in_row]).view()
    clicked = single.filter(single.one.endswith("-1") | single.read_error.notnull())
    return clicked.mutate(
        item_id=clicked.one.re_replace("-1$", ""), index_in_row=clicked.index_in_row.cast("int64")
    ).drop("shown", "one")


def _read_otto(
    source: Source, log: KnownLog, files: list[RawFile], wanted: dict[str, str]
) -> Table:
    """Sessions as objects that hold a list of events."""
    inner = {name: ("events", key) for name, key in wanted.items() if name != "user_id"}
    user = {"user_id": wanted["user_id"]}
    sessions = source.reader.json_lines(files, user, lists=inner)
    length = sessions.item_id.length().fill_null(0)
    # a line that cannot be read has no event, and is kept to be counted
    count = sessions.read_error.notnull().ifelse(1, length)
    indexed = sessions.mutate(index_in_row=ibis.range(count).unnest())
    return indexed.mutate(
        **{name: indexed[name][indexed.index_in_row] for name in inner},
        index_in_row=indexed.index_in_row.cast("int64"),
    )


def _read_diginetica(
    source: Source, log: KnownLog, files: list[RawFile], wanted: dict[str, str]
) -> Table:
    """Views, whose time is a day and the milliseconds since the first view of the session."""
    views = _read(source, log, files, wanted | {"offset": "timeframe"})
    day = times.seconds_of_day(views.unix_time)
    milliseconds = views.offset.try_cast("int64")
    return views.mutate(
        unix_time=ibis.coalesce((day * 1000 + milliseconds).cast("string"), views.unix_time)
    ).drop("offset")


# --- the table ---------------------------------------------------------------------------------

REVIEWS = Columns("reviewerID", "asin", "", "unixReviewTime", rating="overall")
REVIEWS_2023 = Columns("user_id", "parent_asin", "", "timestamp", rating="rating")
STARS_AND_TIME = r"\d(?:\.\d+)?,\d{9,10}"
PARTS = SPLIT_PART  # of Books.train.csv, Books.valid.csv, …

KNOWN_LOGS: dict[str, tuple[KnownLog, ...]] = {
    "amazon2014": (
        KnownLog(
            rf"(?!meta_)(?:reviews_)?(?P<domain>.+?)(?:_5|_10)?{PARTS}\.json",
            REVIEWS,
            keys=("reviewerID", "asin", "unixReviewTime"),
            without=("verified",),
            json=True,
            beside=r"meta_.*",
        ),
        KnownLog(
            rf"(?!meta_)(?:ratings_)?(?P<domain>.+?)(?:_5|_10)?{PARTS}\.csv",
            REVIEWS,
            line=rf"(?!{ASIN},)[^,]+,{ASIN},{STARS_AND_TIME}",
            header=("reviewerID", "asin", "overall", "unixReviewTime"),
        ),
    ),
    "amazon2018": (
        KnownLog(
            rf"(?!meta_)(?P<domain>.+?)(?:_5)?{PARTS}\.json",
            REVIEWS,
            keys=("reviewerID", "asin", "unixReviewTime", "verified"),
            json=True,
            beside=r"meta_.*",
        ),
        KnownLog(
            rf"(?!meta_)(?P<domain>.+?)(?:_5)?{PARTS}\.csv",
            REVIEWS,
            line=rf"{ASIN},(?!{ASIN},)[^,]+,{STARS_AND_TIME}",
            header=("asin", "reviewerID", "overall", "unixReviewTime"),
        ),
    ),
    "amazon2023": (
        KnownLog(
            rf"(?!meta_)(?P<domain>.+?){PARTS}\.jsonl",
            REVIEWS_2023,
            keys=("user_id", "parent_asin", "timestamp"),
            json=True,
            beside=r"meta_.*",
        ),
        KnownLog(
            rf"(?P<domain>.+?){PARTS}\.csv",
            REVIEWS_2023,
            keys=("user_id", "parent_asin", "timestamp"),
        ),
    ),
    "douban": tuple(
        KnownLog(
            rf"(?P<domain>.+?)(?:reviews)?(?:_cleaned)?{PARTS}\.(?:txt|tsv)",
            Columns("user_id", item, "", "time", rating="rating"),
            keys=("user_id", item, "time"),
            delimiter="\t",
            quoted=True,
        )
        for item in ("book_id", "movie_id", "music_id")
    ),
    "movielens": (
        KnownLog(
            r"(?P<domain>.+?)\.(?:dat|txt|csv)",
            Columns("UserID", "MovieID", "", "Timestamp", rating="Rating"),
            line=r".+?::.+?::.*?::\d+",
            header=("UserID", "MovieID", "Rating", "Timestamp"),
            delimiter="::",
            beside=r"(?:movies|users|tags)\.dat|README.*",
        ),
        KnownLog(
            r"(?P<domain>ratings)\.csv",
            Columns("userId", "movieId", "", "timestamp", rating="rating"),
            keys=("userId", "movieId", "rating", "timestamp"),
            beside=r"(?:movies|tags|links|genome-scores|genome-tags)\.csv",
        ),
        KnownLog(
            r"u\.data",
            Columns("user id", "item id", "", "timestamp", rating="rating"),
            line=r"\d+\t\d+\t[1-5]\t\d{9}",
            header=("user id", "item id", "rating", "timestamp"),
            delimiter="\t",
        ),
    ),
    "yelp": (
        KnownLog(
            r"(?:yelp_academic_dataset_)?review\.json",
            Columns("user_id", "business_id", "", "date", rating="stars"),
            keys=("user_id", "business_id", "date"),
            json=True,
            beside=r"(?:yelp_academic_dataset_)?(?:business|checkin|tip|user|photos?)\.json",
        ),
    ),
    "steam": (
        KnownLog(
            r"steam_(?:new|reviews)\.json",
            Columns("username", "product_id", "", "date"),
            keys=("username", "product_id", "date"),
            json=True,
            beside=r"(?:steam_games|bundle_data)\.json",
        ),
    ),
    "goodreads": (
        KnownLog(
            r"goodreads_(?:interactions|reviews)_(?P<domain>.+?)\.json",
            Columns("user_id", "book_id", "", "date_added", rating="rating"),
            keys=("user_id", "book_id", "date_added"),
            json=True,
            time_format=TWITTER_TIME,
            beside=r"goodreads_(?:books|book_|reviews_spoiler).*|(?:book|user)_id_map\.csv",
        ),
    ),
    "taobao": (
        KnownLog(
            r"UserBehavior\.csv",
            Columns("user", "item", "", "timestamp", event="behavior"),
            line=r"\d+,\d+,\d+,(?:pv|buy|cart|fav),-?\d+",
            header=("user", "item", "category", "behavior", "timestamp"),
        ),
    ),
    "tmall": (
        KnownLog(
            r"user_log_format1\.csv",
            Columns("user_id", "item_id", "", "time_stamp", event="action_type"),
            keys=("user_id", "item_id", "time_stamp", "action_type"),
            time_unit="mmdd",
            beside=r"(?:user_info|train|test)_format\d\.csv",
        ),
    ),
    "retailrocket": (
        KnownLog(
            r"events\.csv",
            Columns("visitorid", "itemid", "", "timestamp", event="event"),
            keys=("timestamp", "visitorid", "event", "itemid"),
            beside=r"(?:item_properties_part\d|category_tree)\.csv",
        ),
    ),
    "rees46": (
        KnownLog(
            r"\d{4}-[A-Z][a-z]{2}\.csv",
            Columns("user_id", "product_id", "category_code", "event_time", event="event_type"),
            keys=("event_time", "event_type", "product_id", "category_code", "user_id"),
            domain_until=".",
        ),
    ),
    "hm": (
        KnownLog(
            r"transactions_train\.csv",
            Columns("customer_id", "article_id", "", "t_dat"),
            keys=("t_dat", "customer_id", "article_id"),
            quoted=True,
            beside=r"(?:articles|customers|sample_submission)\.csv",
        ),
    ),
    "kuairand": (
        KnownLog(
            r"log_(?:standard|random)_.+\.csv",
            Columns("user_id", "video_id", "tab", "time_ms", rating="is_click"),
            keys=("user_id", "video_id", "time_ms", "tab"),
            beside=r"(?:user|video)_features_.+\.csv",
        ),
    ),
    "lastfm": (
        KnownLog(
            r"userid-timestamp-artid-artname-traid-traname\.tsv",
            Columns("userid", "artname", "", "timestamp"),
            line=r"user_\d+\t[^\t]+(?:\t[^\t]*){4}",
            header=("userid", "timestamp", "artid", "artname", "traid", "traname"),
            delimiter="\t",
            beside=r"userid-profile\.tsv",
        ),
    ),
    "mind": (
        KnownLog(
            r"behaviors\.tsv",
            Columns("user", "impressions", "", "time"),
            line=r"\d+\tU\d+\t[^\t]+\t[^\t]*\t[^\t]*",
            header=("impression", "user", "time", "history", "impressions"),
            delimiter="\t",
            time_format="%m/%d/%Y %I:%M:%S %p",
            beside=r"news\.tsv|(?:entity|relation)_embedding\.vec",
            read=_read_mind,
        ),
    ),
    "otto": (
        KnownLog(
            r"(?:otto-recsys-)?(?:train|test)(?:_sessions)?\.jsonl",
            Columns("session", "aid", "", "ts", event="type"),
            keys=("session", "events"),
            json=True,
            read=_read_otto,
        ),
    ),
    "diginetica": (
        KnownLog(
            r"train-item-views\.csv",
            Columns("session_id", "item_id", "", "eventdate"),
            keys=("session_id", "item_id", "timeframe", "eventdate"),
            delimiter=";",
            time_unit="milliseconds",
            beside=r"(?:train-(?:clicks|queries|purchases)|products|product-categories)\.csv",
            read=_read_diginetica,
        ),
    ),
    "xwines": (
        KnownLog(
            r"XWines_\w+_ratings\.csv",
            Columns("UserID", "WineID", "", "Date", rating="Rating"),
            keys=("UserID", "WineID", "Rating", "Date"),
            beside=r"XWines_\w+_wines\.csv",
        ),
    ),
    "foursquare": (
        KnownLog(
            r"dataset_TSMC2014_(?P<domain>\w+)\.txt",
            Columns("user", "venue", "", "time"),
            line=r"\d+(?:\t[^\t]*){6}\t\w{3} \w{3} \d\d [\d:]{8} \+0000 \d{4}",
            header=(
                "user", "venue", "category id", "category", "latitude", "longitude", "offset",
                "time",
            ),
            delimiter="\t",
            encoding="latin-1",
            time_format=TWITTER_TIME,
        ),
    ),
}  # fmt: skip


def is_beside(name: str, table: str) -> bool:
    """Whether a table is one of the publisher's files beside a known log."""
    return any(re.fullmatch(log.beside, table) for log in KNOWN_LOGS.get(name, ()))
