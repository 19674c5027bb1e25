"""Small raw logs for the tests of the data step, and the command run on them."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from src.dataset.store.folder import open_dataset
from src.io.errors import run_command
from tests.support.command_runs import data_step

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
DAY = 86_400
HEADER = ("user_id", "item_id", "domain", "unix_time")
MONTH = 1_388_534_400  # 2014-01-01 00:00 UTC


def shared_log(name: str) -> Path:
    """The folder of a real log; skips the test where there is none."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the real log {name} is not here (../shared/data)")
    return folder


def random_log(seed: int = 0, events: int = 400, users: int = 25, items: int = 12) -> list[tuple]:
    """Events of three domains with day-grain times, ties and exact repeats among them."""
    rng = random.Random(seed)
    return [
        (
            f"u{rng.randrange(users):02d}",
            f"{min(rng.randrange(items), rng.randrange(items)):03d}",
            rng.choice(["Books", "Music & Film", "été"]),
            MONTH + DAY * rng.randrange(40),
        )
        for _ in range(events)
    ]


def write_log(path: Path, rows: list[tuple], header: tuple = HEADER, comments: str = "") -> Path:
    """Write rows as CSV, TSV by the suffix, packed for .gz and .zst; the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    separator = "\t" if ".tsv" in path.name else ","
    lines = [separator.join(map(str, row)) for row in [header, *rows]]
    data = (comments + "\n".join(lines) + "\n").encode()
    packed = {".gz": gzip.compress, ".zst": pa.Codec("zstd").compress}.get(path.suffix, bytes)
    path.write_bytes(packed(data))
    return path.parent


def make(raw_dir: Path, out_dir: Path, *flags: str, month: str = "201412") -> None:
    """Run make_dataset.py's command on a log, errors passed on."""
    data_step("--data_name=t", f"--strd_ym={month}", *_places(raw_dir, out_dir), *flags)


def card_of(folder: Path) -> dict:
    """The data card of a dataset folder."""
    return json.loads((folder / "data_card.json").read_text())


def sequences_of(folder: Path) -> dict[str, list[tuple]]:
    """{user_id: [(item_id, domain, time, split)]} as the arrays and the id tables say."""
    data = open_dataset(folder)
    items, users = data.item_ids.to_pylist(), data.user_ids.to_pylist()
    return {
        users[u]: [
            (
                items[data.items[e] - 1],
                data.domain_names[data.domains[e]],
                int(data.times[e]),
                int(data.split[e]),
            )
            for e in range(data.offsets[u], data.offsets[u + 1])
        ]
        for u in range(data.users)
    }


def events_of(folder: Path) -> Counter:
    """The multiset of (user_id, item_id, domain, time) in a folder."""
    return Counter(
        (user, item, domain, time)
        for user, events in sequences_of(folder).items()
        for item, domain, time, _ in events
    )


def fail(capsys, raw_dir: Path, out_dir: Path, *flags: str, month: str = "201412") -> str:
    """Run the command, which must fail: exit status 2, one line, and nothing left; that line."""
    before = sorted(out_dir.rglob("*")) if out_dir.exists() else None
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: make(raw_dir, out_dir, *flags, month=month))
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert (sorted(out_dir.rglob("*")) if out_dir.exists() else None) == before
    assert not list(out_dir.parent.glob(f".{out_dir.name}*"))  # no temporary folder either
    return line


def _places(raw_dir: Path, out_dir: Path) -> list[str]:
    return ["--raw_dir", str(raw_dir), "--out_dir", str(out_dir), "--threads=1"]
