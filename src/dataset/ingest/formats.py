"""Raw formats: how each is recognised and read. A new one is one function, one entry in FORMATS."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import ibis

from src.dataset.ingest.completejourney import read_completejourney
from src.dataset.ingest.event_table import read_table
from src.dataset.ingest.raw_files import RawFile
from src.dataset.ingest.raw_format import (
    Columns,
    RawLog,
    Source,
    complete_columns,
    domain_column,
    domains_from_file_names,
    list_files,
    read_text_files,
    require_default_columns,
    text_layout,
)
from src.dataset.ingest.syncrec_files import FILES as SYNCREC_FILES
from src.dataset.ingest.syncrec_files import SEQUENCES, read_syncrec
from src.dataset.ingest.table_reader import TextLayout
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
    file_names: re.Pattern[str]  # the group `domain`, if any, names the domain of a file
    recognise: Callable[[list[str]], str]  # what in the first lines of a file shows it, or ""
    files_said: str  # its files, for messages


def files_matching(pattern: str) -> re.Pattern[str]:
    """File names of the pattern, also compressed, without `meta_` files."""
    return re.compile(rf"(?!meta_)(?:{pattern})(\.gz|\.zst)?")


# --- Amazon reviews ----------------------------------------------------------------------------


def read_amazon2014(source: Source) -> RawLog:
    """Reviews as JSON lines, or ratings as user, item, rating, time without a header."""
    require_default_columns(source)
    return _reviews(source, "amazon2014", KEYS_2014, RATINGS_2014, header=False)


def read_amazon2018(source: Source) -> RawLog:
    """Reviews as JSON lines, or ratings as item, user, rating, time without a header."""
    require_default_columns(source)
    return _reviews(source, "amazon2018", KEYS_2014, RATINGS_2018, header=False)


def read_amazon2023(source: Source) -> RawLog:
    """Reviews as JSON lines, or ratings with a header; the item is the parent of its variants.

    With `--item_col asin` the items are the variants.
    """
    require_default_columns(source, allowed=("item_id",))
    is_given = source.columns.item_id != Columns.item_id
    item = source.columns.item_id if is_given else "parent_asin"
    keys = {"user_id": "user_id", "item_id": item, "unix_time": "timestamp"}
    return _reviews(source, "amazon2023", keys, (), header=True)


def _reviews(
    source: Source, name: str, keys: dict[str, str], ratings: tuple[str, ...], header: bool
) -> RawLog:
    """Reviews as JSON lines and ratings as CSV, one file per domain."""
    domains = domains_from_file_names(source.files, FORMATS[name].file_names)
    layouts = {
        file: text_layout(source, file, quoted=False)[0]
        if header
        else TextLayout(ratings, ",", quoted=False, header=False)
        for file in source.files
        if ".csv" in file.name
    }
    tables = read_text_files(source, layouts, keys)
    json_files = [file for file in source.files if file not in layouts]
    if json_files:
        tables.append(source.reader.json_lines(json_files, keys))
    return _raw_log(source, name, tables, domains, keys)


def _keys(lines: list[str]) -> set[str]:
    """The keys of the JSON object on the first line."""
    try:
        first = json.loads(lines[0]) if lines else {}
    except (ValueError, RecursionError):
        return set()
    return set(first) if isinstance(first, dict) else set()


def _asin_column(lines: list[str]) -> int | None:
    """The column with the ASIN in ratings without a header, 0 or 1; None for other lines."""
    rows = list(csv.reader(lines[:20]))
    if not rows or not all(
        len(row) == 4 and re.fullmatch(r"\d(\.\d+)?", row[2]) and re.fullmatch(r"\d{9,10}", row[3])
        for row in rows
    ):
        return None
    columns = [n for n in (0, 1) if all(ASIN.fullmatch(row[n]) for row in rows)]
    return columns[0] if len(columns) == 1 else None


def recognise_amazon2014(lines: list[str]) -> str:
    keys = _keys(lines)
    if set(KEYS_2014.values()) <= keys and "verified" not in keys:
        return "JSON lines with reviewerID, asin, unixReviewTime and without verified"
    return "ratings with the ASIN in the second column" if _asin_column(lines) == 1 else ""


def recognise_amazon2018(lines: list[str]) -> str:
    keys = _keys(lines)
    if set(KEYS_2014.values()) | {"verified"} <= keys:
        return "JSON lines with reviewerID, asin, unixReviewTime, verified"
    return "ratings with the ASIN in the first column" if _asin_column(lines) == 0 else ""


def recognise_amazon2023(lines: list[str]) -> str:
    wanted = {"user_id", "parent_asin", "timestamp"}
    if wanted <= _keys(lines):
        return "JSON lines with user_id, parent_asin, timestamp"
    header = set(lines[0].split(",")) if lines else set()
    return "a header with user_id, parent_asin, timestamp" if wanted <= header else ""


# --- others ------------------------------------------------------------------------------------


def read_douban(source: Source) -> RawLog:
    """Reviews of books, movies or music as tab-separated tables with quoted fields."""
    require_default_columns(source)
    domains = domains_from_file_names(source.files, FORMATS["douban"].file_names)
    tables = []
    for file in source.files:
        layout, _comments = text_layout(source, file)
        item = next((name for name in DOUBAN_ITEMS if name in layout.columns), DOUBAN_ITEMS[0])
        wanted = {"user_id": "user_id", "item_id": item, "unix_time": "time"}
        tables += read_text_files(source, {file: layout}, wanted)
    return _raw_log(source, "douban", tables, domains, wanted)


def recognise_douban(lines: list[str]) -> str:
    header = {name.strip('"') for name in lines[0].split("\t")} if lines else set()
    item = next((name for name in DOUBAN_ITEMS if name in header), None)
    return f"a header with user_id, {item}, time" if item and {"user_id", "time"} <= header else ""


def read_movielens(source: Source) -> RawLog:
    """Ratings as user::item::rating::time, without a header."""
    require_default_columns(source)
    domains = domains_from_file_names(source.files, FORMATS["movielens"].file_names)
    wanted = {"user_id": "UserID", "item_id": "MovieID", "unix_time": "Timestamp"}
    layout = TextLayout(
        ("UserID", "MovieID", "Rating", "Timestamp"), "::", quoted=False, header=False
    )
    tables = read_text_files(source, dict.fromkeys(source.files, layout), wanted)
    return _raw_log(source, "movielens", tables, domains, wanted)


def recognise_movielens(lines: list[str]) -> str:
    fields = lines[0].split("::") if lines else []
    return "user::item::rating::time" if len(fields) == 4 and fields[3].isdigit() else ""


def read_recbole(source: Source) -> RawLog:
    """Atomic interaction files: tab-separated, with a header of name:type."""
    require_default_columns(source, allowed=("user_id", "item_id", "domain", "unix_time"))
    names = vars(source.columns) | {}
    if source.columns.unix_time == Columns.unix_time:
        names["unix_time"] = "timestamp"
    layouts = {}
    for file in source.files:
        layout, _comments = text_layout(source, file, quoted=False)
        columns = tuple(name.split(":")[0] for name in layout.columns)
        layouts[file] = TextLayout(columns, "\t", quoted=False, comments=layout.comments)
    domains: dict[str, str] = {}
    if not any(names["domain"] in layout.columns for layout in layouts.values()):
        del names["domain"]
        domains = domains_from_file_names(source.files, FORMATS["recbole"].file_names, parts=True)
    tables = read_text_files(source, layouts, names)
    return _raw_log(source, "recbole", tables, domains, names)


def recognise_recbole(lines: list[str]) -> str:
    return "a header of name:type" if lines and ":token" in lines[0] else ""


def _raw_log(
    source: Source,
    name: str,
    tables: list[ibis.expr.types.Table],
    domains: dict[str, str],
    columns: dict[str, str],
) -> RawLog:
    events = [
        complete_columns(table, **({"domain": domain_column(table, domains)} if domains else {}))
        for table in tables
    ]
    description = f"{name} {list_files(source.files)}"
    return RawLog(ibis.union(*events), source.reader, source.files, Columns(**columns), description)


def recognise_table(lines: list[str]) -> str:
    return "the suffix of a table"


def recognise_nothing(lines: list[str]) -> str:
    return ""


# A file is compared with them in this order: an event table is a file of no other format.
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
        recognise_amazon2014,
        "reviews_*.json.gz or ratings_*.csv",
    ),
    "amazon2018": Format(
        read_amazon2018,
        files_matching(r"(?P<domain>.+?)(?:_5)?\.(?:json|csv)"),
        recognise_amazon2018,
        "*.json.gz or ratings as *.csv",
    ),
    "amazon2023": Format(
        read_amazon2023,
        files_matching(r"(?P<domain>.+?)\.(?:jsonl|csv)"),
        recognise_amazon2023,
        "*.jsonl.gz or ratings as *.csv",
    ),
    "douban": Format(
        read_douban,
        files_matching(r"(?P<domain>.+?)(?:reviews)?(?:_cleaned)?\.(?:txt|tsv)"),
        recognise_douban,
        "*reviews_cleaned.txt",
    ),
    "movielens": Format(
        read_movielens,
        files_matching(r"(?!movies|users|tags)(?P<domain>.+?)\.(?:dat|txt|csv)"),
        recognise_movielens,
        "*.dat with user::item::rating::time",
    ),
    "recbole": Format(
        read_recbole,
        files_matching(r"(?P<domain>.+?)(?:\.(?:train|valid|test))?\.inter"),
        recognise_recbole,
        "*.inter",
    ),
    "completejourney": Format(
        read_completejourney,
        re.compile(r"(?!)"),
        recognise_nothing,
        "no file: the log is a package",
    ),
    "table": Format(
        read_table,
        re.compile(r".+\.(?:(?:csv|tsv)(?:\.gz|\.zst)?|parquet|pq)"),
        recognise_table,
        ".csv, .tsv (also .gz, .zst) or .parquet",
    ),
}


def files_of_format(files: list[RawFile], name: str, location: str) -> list[RawFile]:
    """Those of the files that a format reads; UserError when there is none."""
    pattern = FORMATS[name].file_names
    matching = [file for file in files if pattern.fullmatch(file.name.rpartition("/")[2])]
    if not matching:
        raise UserError(
            f"{location} holds no log of format {name} (its files: {FORMATS[name].files_said})"
        )
    return matching
