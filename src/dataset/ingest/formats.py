"""Raw formats: how each is recognised and read. A new one is one function, one entry in FORMATS."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ibis

from src.dataset.ingest.completejourney import read_completejourney
from src.dataset.ingest.event_table import read_table
from src.dataset.ingest.json_keys import JSON, is_json_object
from src.dataset.ingest.known_logs import KNOWN_LOGS, is_beside, read_known_log, recognise_known_log
from src.dataset.ingest.raw_files import RawFile, is_remote, strip_file_scheme
from src.dataset.ingest.raw_format import (
    SPLIT_PART,
    Columns,
    RawLog,
    Source,
    complete_columns,
    domain_column,
    domains_from_file_names,
    list_files,
    read_head,
    read_text_files,
    wanted_columns,
)
from src.dataset.ingest.syncrec_files import FILES as SYNCREC_FILES
from src.dataset.ingest.syncrec_files import SEQUENCES, read_syncrec
from src.dataset.ingest.table_reader import TextLayout
from src.io.errors import UserError


@dataclass(frozen=True)
class Format:
    """A raw format."""

    read: Callable[[Source], RawLog]
    file_names: re.Pattern[str]  # names of its tables
    recognise: Callable[[str, list[str]], str]  # what in a table's name and first lines shows it
    files_said: str  # its files, for messages


def read_recbole(source: Source) -> RawLog:
    """Atomic interaction files: tab-separated, with a header of name:type."""
    columns = source.columns
    if columns.unix_time == Columns.unix_time:
        columns = replace(columns, unix_time="timestamp")
    layouts = {}
    for file in source.files:
        head = read_head(source, file, source.reader.first_lines(file), {})
        names = tuple(name.split(":")[0] for name in head.columns)
        layouts[file] = TextLayout(names, "\t", quoted=False, comments=len(head.comments))
    has_domain = any(columns.domain in layout.columns for layout in layouts.values())
    domains: dict[str, str] = {}
    if not has_domain and not source.domain_from_side_file:
        domains = domains_from_file_names(source.files, FORMATS["recbole"].file_names)
    wanted = wanted_columns(source, columns, has_domain and not source.domain_from_side_file)
    events = [
        complete_columns(table, **({"domain": domain_column(table, domains)} if domains else {}))
        for table in read_text_files(source, layouts, wanted)
    ]
    description = f"recbole {list_files(source.files)}"
    return RawLog(ibis.union(*events), source.reader, source.files, columns, description)


def recognise_recbole(table: str, lines: list[str]) -> str:
    return "a header of name:type" if lines and ":token" in lines[0] else ""


def recognise_table(table: str, lines: list[str]) -> str:
    if table.endswith(JSON) and not (lines and is_json_object(lines[0])):
        return ""
    return "the suffix of a table"


def recognise_nothing(table: str, lines: list[str]) -> str:
    return ""


def known_log(name: str, files_said: str) -> Format:
    """The entry of a log in KNOWN_LOGS."""
    patterns = (re.sub(r"\?P<domain>", "?:", log.files) for log in KNOWN_LOGS[name])
    return Format(
        partial(read_known_log, name=name),
        re.compile("|".join(f"(?:{pattern})" for pattern in dict.fromkeys(patterns))),
        partial(recognise_known_log, name),
        files_said,
    )


# A file is compared with them in this order: an event table is a file of no other format.
FORMATS = {
    "syncrec": Format(
        read_syncrec,
        re.compile("|".join(map(re.escape, SYNCREC_FILES))),
        lambda table, lines: f"beside {SEQUENCES}" if lines else "",
        ", ".join(SYNCREC_FILES),
    ),
    "amazon2014": known_log("amazon2014", "reviews_*.json.gz or ratings_*.csv"),
    "amazon2018": known_log("amazon2018", "*.json.gz or ratings as *.csv"),
    "amazon2023": known_log("amazon2023", "*.jsonl.gz or ratings as *.csv"),
    "douban": known_log("douban", "*reviews_cleaned.txt"),
    "movielens": known_log("movielens", "ratings.dat, ratings.csv or u.data"),
    "yelp": known_log("yelp", "yelp_academic_dataset_review.json"),
    "steam": known_log("steam", "steam_reviews.json.gz"),
    "goodreads": known_log("goodreads", "goodreads_interactions_*.json.gz"),
    "taobao": known_log("taobao", "UserBehavior.csv"),
    "tmall": known_log("tmall", "user_log_format1.csv"),
    "retailrocket": known_log("retailrocket", "events.csv"),
    "rees46": known_log("rees46", "2019-Oct.csv.gz"),
    "hm": known_log("hm", "transactions_train.csv"),
    "kuairand": known_log("kuairand", "log_standard_*.csv"),
    "lastfm": known_log("lastfm", "userid-timestamp-artid-artname-traid-traname.tsv"),
    "mind": known_log("mind", "behaviors.tsv"),
    "otto": known_log("otto", "otto-recsys-train.jsonl"),
    "diginetica": known_log("diginetica", "train-item-views.csv"),
    "xwines": known_log("xwines", "XWines_*_ratings.csv"),
    "foursquare": known_log("foursquare", "dataset_TSMC2014_*.txt"),
    "recbole": Format(
        read_recbole,
        re.compile(rf"(?P<domain>.+?){SPLIT_PART}\.inter"),
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
        re.compile(r".+\.(?:csv|tsv|json|jsonl|ndjson|parquet|pq)"),
        recognise_table,
        ".csv, .tsv, .json (lines) or .parquet, also compressed",
    ),
}


def files_of_format(files: list[RawFile], name: str, location: str) -> list[RawFile]:
    """Those of the files that a format reads; UserError when there is none.

    An event table may be any file that the location names itself; in a folder, .json is one where
    no other suffix is, as it may be anything.
    """
    pattern = FORMATS[name].file_names
    matching = [
        file for file in files if pattern.fullmatch(file.table) and not is_beside(name, file.table)
    ]
    if name == "table":
        tables = [file for file in matching if not file.table.endswith(".json")]
        matching = (tables or matching) if is_folder(location) else files
    if not matching:
        raise UserError(
            f"{location} holds no log of format {name} (its files: {FORMATS[name].files_said})"
        )
    return matching


def is_folder(location: str) -> bool:
    """Whether a location is a folder, not a file or a glob."""
    return is_remote(location) or Path(strip_file_scheme(location)).is_dir()
