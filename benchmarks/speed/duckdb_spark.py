"""The same dataset made by DuckDB and by Spark on this machine: seconds, and whether it is one.

    python benchmarks/speed/duckdb_spark.py --events 5000000
    python benchmarks/speed/duckdb_spark.py --raw_dir RAW --strd_ym 201407 -- --min_user_events=5

Runs `make_dataset.py` with each engine on a generated log (that of `data.py`), or one of yours,
and compares the SHA-256 of the content. Flags after `--` go to both. Needs requirements-spark.txt
and Java.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import print_result, say, timed
from src.config.cli import OneLineParser
from src.io.errors import UserError, run_command

ENGINES = ("duckdb", "spark")


def main(arguments: list[str] | None = None) -> None:
    """Generate if no log is named, make both datasets, compare and print."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--events", type=int, default=5_000_000, help="events (5 million)")
    parser.add_argument("--raw_dir", help="a log in place of a generated one")
    parser.add_argument("--strd_ym", default="203012", help="cut-off month (203012)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine (2)")
    parser.add_argument("--memory_limit", default="4GB", help="memory of each engine (4GB)")
    parser.add_argument("--work_dir", help="folder for all that is written")
    parser.add_argument("--json", action="store_true", help="print one JSON object, no table")
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    result: dict = {}
    hashes = []
    with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
        work = Path(folder)
        raw = options.raw_dir
        if not raw:
            raw = work / "log"
            source = ["--generate", f"--into={raw}", f"--events={options.events}"]
            timed(["benchmarks/speed/data.py", *source])
        for engine in ENGINES:
            done = timed(
                ["make_dataset.py", "--data_name=bench", f"--strd_ym={options.strd_ym}",
                 f"--raw_dir={raw}", f"--out_dir={work / engine}", f"--engine={engine}",
                 f"--threads={options.threads}", f"--memory_limit={options.memory_limit}",
                 *options.flags]
            )  # fmt: skip
            card = json.loads((work / engine / "data_card.json").read_text())
            say(f"{engine}: {done.seconds:.1f} s, {card['sha256']}")
            hashes.append(card["sha256"])
            result |= {"events": card["events"], f"{engine}_seconds": done.seconds}
    if len(set(hashes)) > 1:
        raise UserError("the engines made different content")
    result |= {"sha256": hashes[0], "flags": options.flags, "threads": options.threads}
    print_result(result, [["figure", "value"], *([k, v] for k, v in result.items())], options.json)


if __name__ == "__main__":
    run_command(main)
