"""Raw formats: how each is recognised and read. A new one is a function and an entry in FORMATS."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import ibis

from src.dataset.ingest.completejourney import read_completejourney
from src.dataset.ingest.event_table import read_table
from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.raw_log import (
    Columns,
    RawLog,
    Source,
    by_layout,
    default_columns,
    domain_of,
    event_columns,
    files_said,
    named_domains,
    text_layout,
)
from src.dataset.ingest.syncrec_files import FILES as SYNCREC_FILES
from src.dataset.ingest.syncrec_files import SEQUENCES, read_syncrec
from src.dataset.ingest.table_reader import Layout
from src.io.errors import UserError

ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
KEYS_2014 = {"user_id": "reviewerID", "item_id": "asin", "unix_time": "unixReviewTime"}
RATINGS_2014 = ("reviewerID", "asin", "overall", "unixReviewTime")
RATINGS_2018 = ("asin", "reviewerID", "overall", "unixReviewTime")
DOUBAN_ITEMS = ("book_id", "movie_id", "music_id")


@dataclass(frozen=True)
class Format:
    """A raw format."""

    read: Callable[[Source], RawLog]
    names: re.Pattern[str]  # of its files; the group `domain`, if any, is what a name tells
    shows: Callable[[list[str]], str]  # what in the first lines of a file shows it; "" if nothing
    said: str  # which files, for a message


def files_matching(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?!meta_)(?:{pattern})(\.gz|\.zst)?")


# --- Amazon reviews ----------------------------------------------------------------------------


def read_amazon2014(source: Source) -> RawLog:
    """Reviews as JSON lines, or ratings as user, item, rating, time without a header."""
    default_columns(source)
    return _reviews(source, "amazon2014", KEYS_2014, RATINGS_2014, header=False)


def read_amazon2018(source: Source) -> RawLog:
    """Reviews as JSON lines, or ratings as item, user, rating, time without a header."""
    default_columns(source)
    return _reviews(source, "amazon2018", KEYS_2014, RATINGS_2018, header=False)


def read_amazon2023(source: Source) -> RawLog:
    """Reviews as JSON lines, or ratings with a header; the item is the parent of its variants.

    `--item_col asin` takes the variants themselves.
    """
    default_columns(source, allowed=("item_id",))
    named = source.columns.item_id != Columns.item_id
    item = source.columns.item_id if named else "parent_asin"
    keys = {"user_id": "user_id", "item_id": item, "unix_time": "timestamp"}
    return _reviews(source, "amazon2023", keys, (), header=True)


def _reviews(
    source: Source, name: str, keys: dict[str, str], ratings: tuple[str, ...], header: bool
) -> RawLog:
    """Reviews as JSON lines and ratings as CSV, a file a domain."""
    domains = named_domains(source.files, FORMATS[name].names)
    texts = {
        file: text_layout(source, file, quoted=False)[0]
        if header
        else Layout(ratings, ",", quoted=False, header=False)
        for file in source.files
        if ".csv" in file.name
    }
    tables = by_layout(source, texts, keys)
    objects = [file for file in source.files if file not in texts]
    if objects:
        tables.append(source.scan.json_lines(objects, keys))
    return _log(source, name, tables, domains, keys)


def _keys(lines: list[str]) -> set[str]:
    """The keys of the JSON object on the first line."""
    try:
        found = json.loads(lines[0]) if lines else {}
    except (ValueError, RecursionError):
        return set()
    return set(found) if isinstance(found, dict) else set()


def _asin_column(lines: list[str]) -> int | None:
    """Which column of ratings without a header holds the ASIN, 0 or 1; None: these are none."""
    rows = list(csv.reader(lines[:20]))
    if not rows or not all(
        len(row) == 4 and re.fullmatch(r"\d(\.\d+)?", row[2]) and re.fullmatch(r"\d{9,10}", row[3])
        for row in rows
    ):
        return None
    asins = [place for place in (0, 1) if all(ASIN.fullmatch(row[place]) for row in rows)]
    return asins[0] if len(asins) == 1 else None


def shows_2014(lines: list[str]) -> str:
    keys = _keys(lines)
    if set(KEYS_2014.values()) <= keys and "verified" not in keys:
        return "JSON lines with reviewerID, asin, unixReviewTime and no verified"
    return "ratings with the ASIN in the second column" if _asin_column(lines) == 1 else ""


def shows_2018(lines: list[str]) -> str:
    keys = _keys(lines)
    if set(KEYS_2014.values()) | {"verified"} <= keys:
        return "JSON lines with reviewerID, asin, unixReviewTime, verified"
    return "ratings with the ASIN in the first column" if _asin_column(lines) == 0 else ""


def shows_2023(lines: list[str]) -> str:
    wanted = {"user_id", "parent_asin", "timestamp"}
    if wanted <= _keys(lines):
        return "JSON lines with user_id, parent_asin, timestamp"
    header = set(lines[0].split(",")) if lines else set()
    return "a header with user_id, parent_asin, timestamp" if wanted <= header else ""


# --- others ------------------------------------------------------------------------------------


def read_douban(source: Source) -> RawLog:
    """Reviews of books, movies or music as tab-separated tables with quoted fields."""
    default_columns(source)
    domains = named_domains(source.files, FORMATS["douban"].names)
    tables = []
    for file in source.files:
        layout, _ = text_layout(source, file)
        item = next((name for name in DOUBAN_ITEMS if name in layout.columns), DOUBAN_ITEMS[0])
        wanted = {"user_id": "user_id", "item_id": item, "unix_time": "time"}
        tables += by_layout(source, {file: layout}, wanted)
    return _log(source, "douban", tables, domains, wanted)


def shows_douban(lines: list[str]) -> str:
    header = {name.strip('"') for name in lines[0].split("\t")} if lines else set()
    item = next((name for name in DOUBAN_ITEMS if name in header), None)
    return f"a header with user_id, {item}, time" if item and {"user_id", "time"} <= header else ""


def read_movielens(source: Source) -> RawLog:
    """Ratings as user::item::rating::time, without a header."""
    default_columns(source)
    domains = named_domains(source.files, FORMATS["movielens"].names)
    wanted = {"user_id": "UserID", "item_id": "MovieID", "unix_time": "Timestamp"}
    layout = Layout(("UserID", "MovieID", "Rating", "Timestamp"), "::", quoted=False, header=False)
    tables = by_layout(source, dict.fromkeys(source.files, layout), wanted)
    return _log(source, "movielens", tables, domains, wanted)


def shows_movielens(lines: list[str]) -> str:
    fields = lines[0].split("::") if lines else []
    return "user::item::rating::time" if len(fields) == 4 and fields[3].isdigit() else ""


def read_recbole(source: Source) -> RawLog:
    """Atomic interaction files: tab-separated, with a header of name:type."""
    default_columns(source, allowed=("user_id", "item_id", "domain", "unix_time"))
    names = vars(source.columns) | {}
    if source.columns.unix_time == Columns.unix_time:
        names["unix_time"] = "timestamp"
    layouts = {}
    for file in source.files:
        layout, _ = text_layout(source, file, quoted=False)
        plain = tuple(name.split(":")[0] for name in layout.columns)
        layouts[file] = Layout(plain, "\t", quoted=False, comments=layout.comments)
    domains: dict[str, str] = {}
    if not any(names["domain"] in layout.columns for layout in layouts.values()):
        del names["domain"]
        domains = named_domains(source.files, FORMATS["recbole"].names, parts=True)
    tables = by_layout(source, layouts, names)
    return _log(source, "recbole", tables, domains, names)


def shows_recbole(lines: list[str]) -> str:
    return "a header of name:type" if lines and ":token" in lines[0] else ""


def _log(
    source: Source,
    name: str,
    tables: list[ibis.expr.types.Table],
    domains: dict[str, str],
    columns: dict[str, str],
) -> RawLog:
    events = [
        event_columns(table, **({"domain": domain_of(table, domains)} if domains else {}))
        for table in tables
    ]
    said = f"{name} {files_said(source.files)}"
    return RawLog(ibis.union(*events), source.scan, source.files, Columns(**columns), said)


def shows_table(lines: list[str]) -> str:
    return "an event table"


def shows_nothing(lines: list[str]) -> str:
    return ""


# In the order in which a file is compared with them: an event table is what is nothing else.
FORMATS = {
    "syncrec": Format(
        read_syncrec,
        re.compile("|".join(map(re.escape, SYNCREC_FILES))),
        lambda lines: f"beside {SEQUENCES}" if lines else "",
        ", ".join(SYNCREC_FILES),
    ),
    "amazon2014": Format(
        read_amazon2014,
        files_matching(r"(?:reviews_|ratings_)?(?P<domain>.+?)(?:_5|_10)?\.(?:json|csv)"),
        shows_2014,
        "reviews_*.json.gz or ratings_*.csv",
    ),
    "amazon2018": Format(
        read_amazon2018,
        files_matching(r"(?P<domain>.+?)(?:_5)?\.(?:json|csv)"),
        shows_2018,
        "*.json.gz or ratings as *.csv",
    ),
    "amazon2023": Format(
        read_amazon2023,
        files_matching(r"(?P<domain>.+?)\.(?:jsonl|csv)"),
        shows_2023,
        "*.jsonl.gz or ratings as *.csv",
    ),
    "douban": Format(
        read_douban,
        files_matching(r"(?P<domain>.+?)(?:reviews)?(?:_cleaned)?\.(?:txt|tsv)"),
        shows_douban,
        "*reviews_cleaned.txt",
    ),
    "movielens": Format(
        read_movielens,
        files_matching(r"(?!movies|users|tags)(?P<domain>.+?)\.(?:dat|txt|csv)"),
        shows_movielens,
        "*.dat with user::item::rating::time",
    ),
    "recbole": Format(
        read_recbole,
        files_matching(r"(?P<domain>.+?)(?:\.(?:train|valid|test))?\.inter"),
        shows_recbole,
        "*.inter",
    ),
    "completejourney": Format(
        read_completejourney, re.compile(r"(?!)"), shows_nothing, "no file: it is a package"
    ),
    "table": Format(
        read_table,
        re.compile(r".+\.(?:(?:csv|tsv)(?:\.gz|\.zst)?|parquet|pq)"),
        shows_table,
        ".csv, .tsv (also .gz, .zst) or .parquet",
    ),
}


def files_of(found: list[RawFile], name: str, place: str) -> list[RawFile]:
    """The files that a format reads among those found; UserError when there is none."""
    pattern = FORMATS[name].names
    files = [file for file in found if pattern.fullmatch(file.name.rpartition("/")[2])]
    if not files:
        raise UserError(f"{place} holds no log of format {name}: {FORMATS[name].said}")
    return files
