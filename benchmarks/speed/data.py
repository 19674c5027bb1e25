"""The data step against DuckDB's bare sort of the same events, and against plain pandas.

    python benchmarks/speed/data.py --events 10000000
    python benchmarks/speed/data.py --events 100000000 --memory_limit 4GB --skip_pandas --json

Generates a Parquet log of N events, N / 20 users, N / 50 items and ten domains, and runs, one after
the other and each in a process of its own:

- `make_dataset.py` on it, as a user would run it: `seconds`, `peak_rss_mib`;
- DuckDB, with the same threads and memory limit, sorting the same log by user and time and writing
  it as Parquet: `sort_seconds`; `ratio` = seconds / sort_seconds;
- the same steps in plain pandas (`benchmarks/speed/data_pandas.py`): `pandas_seconds`,
  `pandas_peak_rss_mib`; both contents must have the same SHA-256.

With several rounds each figure is the median, and `spread` has the least and the greatest ratio.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import print_result, say, timed
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command

DOMAINS = 10


def generate(events: int, folder: Path, options: dict[str, str]) -> None:
    """Write the log: few users and items have many events, times are in seconds over three years.

    A function of the number of events alone; ids are strings of 12 and 10 characters.
    """
    folder.mkdir()
    users, items = max(1, events // 20), max(2 * DOMAINS, events // 50)
    share = "(hash(range, {}) % 4294967291) / 4294967291.0"
    columns = f"""
        'U' || lpad(to_base((pow({share.format(1)}, 1.5) * {users})::BIGINT, 36), 11, '0')
            AS user_id,
        (pow({share.format(2)}, 2.5) * {items})::BIGINT AS number,
        'B' || lpad(to_base(number, 36), 9, '0') AS item_id,
        'domain' || number % {DOMAINS} AS domain,
        1600000000 + (hash(range, 3) % 100000000)::BIGINT AS unix_time
    """
    with duckdb.connect(config=options) as engine:
        engine.execute(
            f"COPY (SELECT user_id, item_id, domain, unix_time FROM "
            f"(SELECT {columns} FROM range({events}))) "
            f"TO '{folder}' (FORMAT parquet, PER_THREAD_OUTPUT true)"
        )


def sort_log(log: Path, target: Path, options: dict[str, str]) -> None:
    """The reference: DuckDB's sort of the log by user and time, written as Parquet; its seconds
    on standard output."""
    with duckdb.connect(config=options) as engine:
        start = time.perf_counter()
        engine.execute(
            f"COPY (FROM read_parquet('{log}/*') ORDER BY user_id, unix_time) "
            f"TO '{target}' (FORMAT parquet)"
        )
        print(time.perf_counter() - start)


def run_round(log: Path, work: Path, asked: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """One round of the three commands."""
    engine = [f"--threads={asked.threads}", f"--memory_limit={asked.memory_limit}"]
    out = work / "dataset"
    ours = timed(
        ["make_dataset.py", "--data_name=bench", "--strd_ym=203012", f"--raw_dir={log}",
         f"--out_dir={out}", *engine, *flags]
    )  # fmt: skip
    card = json.loads((out / "data_card.json").read_text())
    shutil.rmtree(out)
    say(f"make_dataset.py: {ours.seconds:.1f} s, {ours.peak_mib:,.0f} MiB")
    sort = timed(
        ["benchmarks/speed/data.py", f"--sort={log}", f"--into={work}/sorted.parquet", *engine]
    )
    (work / "sorted.parquet").unlink()
    say(f"sort: {float(sort.last_line):.1f} s")
    found = {
        "seconds": ours.seconds,
        "sort_seconds": float(sort.last_line),
        "ratio": ours.seconds / float(sort.last_line),
        "pandas_seconds": None,
        "pandas_peak_rss_mib": None,
        "peak_rss_mib": ours.peak_mib,
        "sort_peak_rss_mib": sort.peak_mib,
        "kept_events": card["events"],
    }
    if not asked.skip_pandas:
        plain = timed(["benchmarks/speed/data_pandas.py", str(log), str(out), *flags])
        shutil.rmtree(out)
        if plain.last_line != card["sha256"]:
            raise UserError("plain pandas made other content: the comparison means nothing")
        say(f"pandas: {plain.seconds:.1f} s, {plain.peak_mib:,.0f} MiB")
        found |= {"pandas_seconds": plain.seconds, "pandas_peak_rss_mib": plain.peak_mib}
    return found


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over the rounds, and the ratios of pandas to ours."""
    figures = {
        name: None if value is None else median(one[name] for one in rounds)
        for name, value in rounds[0].items()
    }
    ratios = [one["ratio"] for one in rounds]
    figures |= {"ratio": median(ratios), "spread": [min(ratios), max(ratios)]}
    if figures["pandas_seconds"]:
        figures["pandas_times"] = median(one["pandas_seconds"] / one["seconds"] for one in rounds)
        figures["memory_share"] = median(
            one["peak_rss_mib"] / one["pandas_peak_rss_mib"] for one in rounds
        )
    return figures


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The flags; what follows `--` goes to make_dataset.py and to the pandas pipeline."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--events", type=int, default=10_000_000, help="events (10 million)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds (1)")
    parser.add_argument("--threads", type=int, default=2, help="threads of DuckDB (2)")
    parser.add_argument("--memory_limit", default="4GB", help="DuckDB's memory (4GB)")
    parser.add_argument("--work_dir", help="folder for the log and all that is written")
    parser.add_argument("--skip_pandas", action="store_true", help="leave plain pandas out")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("--sort", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.events < 1000:
        raise UserError(f"--events {asked.events} are too few; give at least 1000")
    return asked


def main(arguments: list[str] | None = None) -> None:
    """Generate, measure and print."""
    asked = parse_arguments(arguments)
    with tempfile.TemporaryDirectory(dir=asked.work_dir) as folder:
        work = Path(folder)
        options = {
            "threads": str(asked.threads), "memory_limit": asked.memory_limit,
            "temp_directory": str(work / "overflow"), "preserve_insertion_order": "false",
        }  # fmt: skip
        if asked.sort:
            sort_log(asked.sort, asked.into, options)
            return
        if asked.generate:
            generate(asked.events, asked.into, options)
            return
        log = work / "log"
        # in a process of its own too: what this one held would count as a child's memory
        timed(
            ["benchmarks/speed/data.py", "--generate", f"--into={log}", f"--events={asked.events}"]
        )
        written = sum(path.stat().st_size for path in log.iterdir()) / 2**20
        say(f"{asked.events:,} events generated, {written:,.0f} MiB of Parquet")
        rounds = [run_round(log, work, asked, asked.flags) for _ in range(asked.rounds)]
    figures = summarise(rounds)
    result = {
        "events": asked.events, **figures, "rounds": asked.rounds, "threads": asked.threads,
        "memory_limit": asked.memory_limit, "log_mib": written, "flags": asked.flags,
    }  # fmt: skip
    rows = [["figure", "value"]]
    rows += [[name, f"{value:,.4g}" if isinstance(value, float) else value]
             for name, value in result.items()]  # fmt: skip
    print_result(result, rows, asked.json)


if __name__ == "__main__":
    run_command(main)
