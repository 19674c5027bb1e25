"""Is this log the one of the published tables?

    python experiments/logs/check.py NAME DIR/NAME/interactions.csv.gz

Prints the events, users, items, domains, days and hash of the log, and what logs.toml has where
they differ; exit status 1 then.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from experiments.logs.known import FACTS, ORDER, OTHER_ORDER, facts_of, known_logs, read_log
from src.io.errors import run_command


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=known_logs())
    parser.add_argument("file", type=Path, help="user_id,item_id,domain,unix_time")
    given = parser.parse_args(words)
    known, found = known_logs()[given.name], facts_of(read_log(given.file))
    for fact in FACTS:
        expected = "" if found[fact] == known[fact] else f"   expected: {known[fact]}"
        print(f"{fact:8}{found[fact]}{expected}")
    if any(found[fact] != known[fact] for fact in FACTS):
        print(f"{given.file} is not the log {given.name} of the tables", file=sys.stderr)
        sys.exit(1)
    print(f"this is the log {given.name} of the tables")
    if found[ORDER] != known[ORDER]:
        print(OTHER_ORDER)


if __name__ == "__main__":
    run_command(main)
