"""A tiny good world for the fuzzer to spoil: raw logs in many formats, a dataset, trained runs."""

import bz2
import gzip
import io
import json
import random
import tarfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import main
from tests.support.command_runs import data_step
from tests.support.known_miniatures import LOGS, download

DOMAINS = ("Books", "Film", "Toys")
MONTH = 1_388_534_400  # 2014-01-01 00:00 UTC
TINY = (
    "--hidden=4", "--layers=1", "--max_len=6", "--batch_size=6", "--max_epochs=1", "--seed=1",
    "--experts_cross=1", "--eval_users=8", "--sampled_negatives=3", "--threads=1", "--device=cpu",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class World:
    """Where everything lies."""

    root: Path
    logs: dict[str, Path]  # by format
    data: Path
    runs: dict[str, Path]  # by --mode

    @property
    def run(self) -> Path:
        """The run with both paths, which has every kind of file."""
        return self.runs["syncrec"]


def events(users: int = 12, seed: int = 0) -> list[tuple[str, str, str, int]]:
    """(user, item, domain, time), nine a user, three a domain."""
    rng = random.Random(seed)
    return [
        (f"u{user:02d}", f"{domain[0]}{rng.randrange(5):09d}", domain, MONTH + hour * 3600)
        for user in range(users)
        for hour, domain in enumerate(DOMAINS * 3, 9 * user)
    ]


def build(root: Path) -> World:
    """Make the world below a folder that exists."""
    logs = write_logs(root / "raw")
    data, runs = root / "data", root / "runs"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        data_step(*data_flags(logs["csv"]), f"--out_dir={data}")
        for mode in ("syncrec", "cdsr", "sdsr"):
            main.main(
                [f"--data_dir={data}", f"--runs_dir={runs}", *TINY, f"--mode={mode}",
                 f"--run_name={mode}"]
            )  # fmt: skip
    return World(
        root, logs, data, {mode: runs / "t" / mode for mode in ("syncrec", "cdsr", "sdsr")}
    )


def data_flags(log: Path) -> list[str]:
    """The flags of make_dataset.py for a log, but for the folder that is made."""
    return ["--data_name=t", "--strd_ym=201412", f"--raw_dir={log}", "--threads=1"]


def write_logs(folder: Path) -> dict[str, Path]:
    """{format: folder} of the same events in each raw format that can hold them."""
    folders = {name: folder / name for name in WRITERS}
    for name, write in WRITERS.items():
        folders[name].mkdir(parents=True)
        write(folders[name], events())
    published = {log: download(folder / "known" / log.replace(" ", "_"), log) for log in LOGS}
    return folders | published


def _lines(rows: list, separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def _table(separator: str) -> str:
    return _lines([("user_id", "item_id", "domain", "unix_time"), *events()], separator)


def _csv(folder: Path, _: list) -> None:
    (folder / "log.csv").write_text('# source: a "test"\n' + _table(","))


def _gz(folder: Path, _: list) -> None:
    (folder / "log.csv.gz").write_bytes(gzip.compress(_table(",").encode()))


def _zst(folder: Path, _: list) -> None:
    packed = pa.Codec("zstd").compress(_table("\t").encode())
    (folder / "log.tsv.zst").write_bytes(packed.to_pybytes())


def _semicolons(folder: Path, _: list) -> None:
    (folder / "log.csv").write_bytes(_table(";").encode("utf-16"))


def _bz2(folder: Path, _: list) -> None:
    text = _table("|").partition("\n")[2]
    (folder / "log.csv.bz2").write_bytes(bz2.compress(text.encode()))


def _zip(folder: Path, _: list) -> None:
    with zipfile.ZipFile(folder / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", _table(","))


def _tar(folder: Path, _: list) -> None:
    data = _table("\t").encode()
    with tarfile.open(folder / "log.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("log.tsv")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def _json_lines(folder: Path, rows: list) -> None:
    names = ("user_id", "item_id", "domain", "unix_time")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


def _parquet(folder: Path, rows: list) -> None:
    columns = zip(
        ("user_id", "item_id", "domain", "unix_time"), zip(*rows, strict=True), strict=True
    )
    pq.write_table(
        pa.table({name: list(values) for name, values in columns}), folder / "log.parquet"
    )


def _reviews(folder: Path, rows: list) -> None:
    for domain in DOMAINS:
        own = [
            json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": 5})
            for user, item, other, time in rows
            if other == domain
        ]
        (folder / f"reviews_{domain}_5.json").write_text("\n".join(own) + "\n")


def _recbole(folder: Path, rows: list) -> None:
    head = "user_id:token\titem_id:token\tdomain:token\ttimestamp:float\n"
    (folder / "log.inter").write_text(head + _lines(rows, "\t"))


def _movielens(folder: Path, rows: list) -> None:
    for domain in DOMAINS:
        own = [(user, item, 5, time) for user, item, other, time in rows if other == domain]
        (folder / f"{domain}.dat").write_text(_lines(own, "::"))


def _syncrec(folder: Path, rows: list) -> None:
    lists: dict[str, list] = {}
    for row in rows:
        lists.setdefault(row[0], []).append(row[1:])
    lines = [("user_id", "item", "type", "unix_time", "list_len")]
    for user, own in lists.items():
        lines.append(
            (user, *(",".join(map(str, part)) for part in zip(*own, strict=True)), len(own))
        )
    (folder / "amazon_seq.txt").write_text(_lines(lines, "\t"))
    for name, column, place in (("voca_item.txt", "item", 1), ("voca_type.txt", "type", 2)):
        words = dict.fromkeys(row[place] for row in rows)
        numbered = [(column, "id"), *((word, number) for number, word in enumerate(words))]
        (folder / name).write_text(_lines(numbered, "\t"))


WRITERS = {
    "csv": _csv, "gz": _gz, "zst": _zst, "semicolons": _semicolons, "bz2": _bz2, "zip": _zip,
    "tar": _tar, "json lines": _json_lines, "parquet": _parquet, "reviews": _reviews,
    "recbole": _recbole, "movielens": _movielens, "syncrec": _syncrec,
}  # fmt: skip
