"""The grid of a spec: datasets that are missing, then the runs that have no record yet."""

import dataclasses
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.runner.pool import Pool, Running, last_lines, status_words
from experiments.runner.spec import Job, Log, Spec, dataset_flags
from src.config.settings import Settings
from src.dataset.store.folder import CARD, read_card
from src.io.errors import UserError
from src.io.paths import ROOT
from src.report.finished_runs import read_runs
from src.report.formatting import level
from src.report.run_records import Record, Records, read_records, run_key, write_run
from src.runs.checkpoints import LAST

SAY_S = 300.0  # between two lines about what is running
DATA = "{data}"  # in a command that generates a log: the folder of --data
CODE = (".", ":!results", ":!experiments/specs", ":!docs", ":!*.md")  # what decides a result


@dataclass(frozen=True)
class Places:
    """Where things are, as the command line says."""

    runs: Path
    records: Path
    datasets: Path | None  # below which datasets are made; None: where make_dataset.py puts them
    raw: Path | None  # the folder of real logs (--data)

    def logs(self, data_name: str) -> Path:
        """The folder of the commands' output."""
        return self.runs / data_name / "logs"


@dataclass
class Grid:
    """A spec at work: the data of each log, and what happened to the runs."""

    spec: Spec
    places: Places
    pool: Pool
    data: dict[str, str] = field(default_factory=dict)  # {log: sha256}
    failed: list[str] = field(default_factory=list)  # a line for each

    def find_data(self, records: Records, needed: set[str]) -> None:
        """The sha256 of each log's data, from its dataset folder or a record; the datasets of the
        logs `needed` are made where they are missing. UserError where that is impossible."""
        to_make = []
        for log in self.spec.logs.values():
            if sha256 := made_data(log, log.folder(self.places.datasets)):
                self.data[log.name] = sha256
            elif log.name in needed:
                to_make.append(log)
            elif sha256 := recorded_data(log, records):
                self.data[log.name] = sha256
        for log in to_make:
            self._raw_folder(log)  # refused before any work
        for log in to_make:
            self._make(log)

    def _raw_folder(self, log: Log) -> Path | None:
        """Where the raw log is, or is generated; None for what make_dataset.py finds by itself.
        UserError where it is missing."""
        needs = log.raw or next((word for word in log.generate if DATA in word), "")
        if needs and not self.places.raw:
            raise UserError(
                f"log {log.name}: its raw data is missing; name the folder that has "
                f"{needs.removeprefix(DATA).strip('/')}/ with --data"
            )
        if log.generate:
            folder = log.folder(self.places.datasets)
            return folder.with_name(f"{folder.name}-raw")
        folder = (self.places.raw or Path()) / log.raw
        if needs and not folder.exists():
            raise UserError(f"log {log.name}: its raw data is missing: {folder} does not exist")
        return folder if needs else None

    def _make(self, log: Log) -> None:
        """Make the dataset of a log, and the raw log first where it is generated."""
        folder, raw = log.folder(self.places.datasets), self._raw_folder(log)
        print(f"log {log.name}: making {folder}", flush=True)
        if log.generate and raw and not raw.is_dir():
            words = [word.replace(DATA, str(self.places.raw)) for word in log.generate]
            self._call(log, [*words, "--out", str(raw)])
        flags = [*dataset_flags(log.dataset), f"--out_dir={folder}"]
        flags += [f"--raw_dir={raw}"] if raw else []
        self._call(log, [str(ROOT / "make_dataset.py"), *flags])
        sha256 = made_data(log, folder)
        assert sha256, "the dataset was made with other options"
        if self.data.get(log.name, sha256) != sha256:
            print(f"log {log.name}: its data is not that of the records", flush=True)
        self.data[log.name] = sha256

    def _call(self, log: Log, command: list[str]) -> None:
        """Run a command for a log. UserError where it fails."""
        output = self.places.logs(log.dataset.data_name) / f"dataset-{log.name}.log"
        if self.pool.call(log, command, output).status:
            raise UserError(f"log {log.name}: {last_lines(output)} (output: {output})")

    # ------------------------------------------------------------------------ runs

    def key(self, job: Job) -> str:
        return run_key(self.recorded_settings(job), self.data[job.log.name])

    def recorded_settings(self, job: Job) -> Settings:
        """The settings as a record has them: a run that it starts from is named by its key."""
        former = self.spec.former(job)
        if not former:
            return job.settings
        return dataclasses.replace(job.settings, init_from=f"record {self.key(former)}")

    def missing(self, jobs: list[Job], records: Records) -> list[Job]:
        """The runs without a record."""
        return [job for job in jobs if not self.record(job, records)]

    def record(self, job: Job, records: Records) -> Record | None:
        """The record of a run; None without one, or where its data is unknown."""
        former = self.spec.former(job)
        if any(one.log.name not in self.data for one in (job, former) if one):
            return None
        return records.runs.get(self.key(job))

    def run_folder(self, job: Job, name: str = "") -> Path:
        """The folder of a run: the one that has its hash, perhaps under the name of another spec,
        or a new one."""
        name, key = name or f"{job.log.name}-{job.model}-seed{job.seed}", self.key(job)[:8]
        runs = self.places.runs / job.log.dataset.data_name
        return next(iter(sorted(runs.glob(f"*-{key}"))), runs / f"{name}-{key}")

    def start(self, job: Job, folder: Path, slot: str, what: Any = None) -> Running:
        """Start a run, or continue it; `what` is what `Pool.ended` names it by, else the job."""
        log = job.log
        command = [
            str(ROOT / "main.py"), *job.flags, f"--data_name={log.dataset.data_name}",
            f"--strd_ym={log.dataset.strd_ym}", f"--variant={log.dataset.variant}",
            f"--data_dir={log.folder(self.places.datasets)}", f"--runs_dir={self.places.runs}",
            f"--run_name={folder.name}", "--resume", f"--threads={self.pool.threads}",
            f"--device={slot}",
        ]  # fmt: skip
        if former := self.spec.former(job):
            command.append(f"--init_from={self.run_folder(former)}")
        output = self.places.logs(log.dataset.data_name) / f"{folder.name}.log"
        return self.pool.start(what or job, command, output, slot)

    def work(self, jobs: list[Job]) -> None:
        """Run these jobs, record each that finishes, and note those that fail."""
        waiting, total, done, said = list(jobs), len(jobs), 0, time.monotonic()
        times = Times(self, read_records(self.places.records))
        print(f"{total} run{'s' * (total != 1)} to train{times.left(jobs, self.pool)}", flush=True)
        while waiting or self.pool.running:
            for slot in self.pool.free:
                if job := self._next(waiting):
                    waiting.remove(job)
                    self.start(job, self.run_folder(job), slot)
            for ended in self.pool.ended():
                done += 1
                line = self.finish(ended, times)
                remaining = [*waiting, *(one.what for one in self.pool.running)]
                left = times.left(remaining, self.pool)
                print(f"[{done}/{total}] {ended.what}: {line}{left}", flush=True)
            if time.monotonic() - said > SAY_S:
                said = time.monotonic()
                for one in self.pool.running:
                    print(f"  running: {one.what}: {last_lines(one.log, 1)}", flush=True)
            self.pool.pause()

    def _next(self, waiting: list[Job]) -> Job | None:
        """The next run to start: one that starts from no run that is still to end."""
        busy = {str(job) for job in (*waiting, *(one.what for one in self.pool.running))}
        for job in waiting:
            former = self.spec.former(job)
            if not former or str(former) not in busy:
                return job
        return None

    def finish(self, ended: Running, times: "Times") -> str:
        """Record a run that has ended; returns what to say of it."""
        job: Job = ended.what
        folder = self.run_folder(job)
        words = f"({status_words(ended.status)}): {last_lines(ended.log)}" if ended.status else ""
        if not words:
            try:
                return self._record(job, folder, ended, times)
            except UserError as error:
                words = f"(not recorded): {error}"
        self.failed.append(f"{job}: failed {words}; output: {ended.log}")
        return f"failed {words}"

    def _record(self, job: Job, folder: Path, ended: Running, times: "Times") -> str:
        """Record a finished run and remove what it no longer needs; returns what to say of it."""
        (run,) = read_runs([folder])
        cost = {"seconds": round(ended.seconds, 1), "peak_memory_mib": ended.memory}
        code = code_state(run.environment)
        init_from = self.recorded_settings(job).init_from
        path, note = write_run(self.places.records, run, cost, code, init_from)
        assert path.stem == self.key(job), "the run was trained with other settings"
        drop_checkpoints(folder)
        times.note(job, ended.seconds)
        metric = run.config["select_metric"]
        levels = ", ".join(
            f"{split} {level(run.scores(split, 'full', run.default_path)['macro'][metric])}"
            for split in ("valid", "test")
        )
        return f"{ended.seconds:.0f} s, {metric} {levels} -> {path.name}{f' ({note})' * bool(note)}"


@dataclass
class Times:
    """How long runs took, by log and model, from their records and this call."""

    grid: Grid
    records: Records
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for job in self.grid.spec.jobs():
            if record := self.grid.record(job, self.records):
                self.note(job, record.content["cost"]["seconds"])

    def note(self, job: Job, seconds: float) -> None:
        self.seconds.setdefault((job.log.name, job.model), []).append(seconds)

    def left(self, jobs: list[Job], pool: Pool) -> str:
        """The time that these runs take, in words; empty where nothing is known, or nothing left.
        A run that was started counts for what it has left."""
        every = [one for times in self.seconds.values() for one in times]
        if not every or not jobs:
            return ""
        spent = {id(one.what): time.monotonic() - one.began for one in pool.running}
        seconds = sum(max(0.0, self._expected(job) - spent.get(id(job), 0.0)) for job in jobs)
        return f"; about {max(1, round(seconds / len(pool.slots) / 60))} min left"

    def _expected(self, job: Job) -> float:
        """The mean of the runs that are most like it."""
        same_log = [t for (log, _), ts in self.seconds.items() if log == job.log.name for t in ts]
        every = [one for times in self.seconds.values() for one in times]
        return statistics.mean(self.seconds.get((job.log.name, job.model)) or same_log or every)


def made_data(log: Log, folder: Path) -> str:
    """The hash of a log's dataset folder; empty where there is none of its options, in which case
    make_dataset.py makes it, or refuses to replace another."""
    if not (folder / CARD).is_file():
        return ""
    card = read_card(folder)
    return card["sha256"] if log.made_with(card["options"]) else ""


def recorded_data(log: Log, records: Records) -> str:
    """The sha256 of a log's data from the record of its dataset; empty without one. UserError where
    several fit."""
    fitting = [
        record
        for record in records.datasets.values()
        if record.content["data"]["name"] == log.dataset.data_name
        and log.made_with(record.content["options"])
    ]
    if len(fitting) > 1:
        names = " and ".join(record.path.name for record in fitting)
        raise UserError(
            f"log {log.name}: {names} are of the same options and different data; make the "
            "dataset, whose hash decides"
        )
    return fitting[0].data_sha256 if fitting else ""


def drop_checkpoints(folder: Path) -> None:
    """Remove what only a run that trains on would need; best.pt stays."""
    for path in folder.rglob(LAST):
        path.unlink()


def code_state(environment: dict[str, Any]) -> dict[str, Any]:
    """{"commit", "dirty"} of a run: dirty where code or settings differ from the commit. Records
    and tables, which the queue itself writes, don't count."""
    commit = environment.get("commit")
    done = subprocess.run(
        ["git", "status", "--porcelain", "--", *CODE], cwd=ROOT, capture_output=True, text=True
    )
    return {"commit": commit, "dirty": None if commit is None else bool(done.stdout.strip())}
