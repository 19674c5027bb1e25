"""One's own log: dataset, four models with several seeds, report and recommendations (own.sh).

What is finished is used again, so that the command can be stopped and given again at any time.
"""

import argparse
import dataclasses
import math
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import build_parser, from_namespace
from src.config.dataset_settings import DatasetSettings
from src.config.settings import Settings
from src.dataset.store.folder import dataset_folder, read_card
from src.io.errors import EXIT_INTERRUPTED, UserError, run_command
from src.io.files import check_output
from src.runs.records import read_results

ROOT = Path(__file__).resolve().parents[1]
# What is compared: a model per domain, each task of one model for all domains, and both tasks
MODES = ("sdsr_separate", "sdsr", "cdsr", "syncrec")
# Flags of main.py that differ between the runs, or hold for all of them: {flag: the remedy}
BESIDE = "; --variant, or --runs_dir and --out, keep other runs beside these"
SET_HERE = {
    "--seed": "; give --seeds",
    "--mode": "",
    "--run_name": BESIDE,
    "--resume": "; the same command goes on by itself",
    "--overwrite": BESIDE,
}


@dataclass
class Plan:
    """The runs to train, in order: all models of the first seed, then those of the next."""

    folder: Path  # runs/<data_name>
    prefix: str  # of the names of the runs
    seeds: list[int]
    seconds: dict[str, list[float]] = field(default_factory=dict)  # {mode: of runs trained here}

    def runs(self) -> list[tuple[str, int]]:
        """(mode, seed) of each run."""
        return [(mode, seed) for seed in self.seeds for mode in MODES]

    def path(self, mode: str, seed: int) -> Path:
        return self.folder / f"{self.prefix}-{mode}-seed{seed}"

    def is_finished(self, mode: str, seed: int) -> bool:
        return (self.path(mode, seed) / "results.json").is_file()

    def minutes_left(self) -> str:
        """How long the unfinished runs will take, by the runs that were trained here."""
        times = [seconds for of_mode in self.seconds.values() for seconds in of_mode]
        if not times:
            return ""
        left = sum(
            statistics.mean(self.seconds.get(mode) or times)
            for mode, seed in self.runs()
            if not self.is_finished(mode, seed)
        )
        return f", about {max(1, round(left / 60))} min left"


def main(arguments: list[str] | None = None) -> None:
    """The whole way. A command that fails has said why: its status is that of this one."""
    given, training = parse(arguments)
    settings = from_namespace(DatasetSettings, given)
    if settings.describe or settings.suggest:
        raise UserError(
            "--describe and --suggest write nothing and train nothing: give the same flags to "
            "python make_dataset.py"
        )
    deadline = time.monotonic() + 60 * given.max_minutes
    name = "-".join(filter(None, (settings.strd_ym, settings.variant)))
    out = Path(given.out or f"reports/{settings.data_name}-{name}")
    check_output(out, "--out", folder=True)

    folder = dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)
    folder = Path(settings.out_dir) if settings.out_dir else folder
    was_there = folder.exists()
    call("make_dataset.py", dataset_flags(settings))
    check_domains(folder, was_there)
    dataset = [f"--data_name={settings.data_name}", f"--strd_ym={settings.strd_ym}"]
    dataset += [f"--variant={settings.variant}"] * bool(settings.variant)
    dataset += [f"--data_dir={settings.out_dir}"] * bool(settings.out_dir)
    seeds = list(dict.fromkeys(given.seeds))
    plan = Plan(Path(given.runs_dir) / settings.data_name, f"own-{name}", seeds)
    common = [f"--config={given.config}", f"--runs_dir={given.runs_dir}"]
    common += [f"--threads={settings.threads}"] * bool(settings.threads)
    train(plan, [*dataset, *common, *training], deadline)
    report(plan, out, dataset, given.k)


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """(the flags of this command and of make_dataset.py, the others: those of main.py)."""
    parser = build_parser(DatasetSettings, (__doc__ or "").splitlines()[0])
    group = parser.add_argument_group(
        "runs", "flags of main.py, such as --hidden, are for all runs"
    )
    group.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="seeds")
    group.add_argument(
        "--max_minutes", type=float, default=math.inf, metavar="N",
        help="stop training then, and report on what is finished; the same command goes on",
    )  # fmt: skip
    group.add_argument(
        "--config", default=str(ROOT / "configs" / "own.json"), metavar="FILE", help="settings"
    )
    group.add_argument(
        "--runs_dir", default=str(ROOT / "runs"), metavar="FOLDER", help="for run folders"
    )
    group.add_argument("--k", type=int, default=10, metavar="N", help="items per user and domain")
    group.add_argument(
        "--out", metavar="FOLDER", help="for report and recommendations; default: reports/<log>"
    )
    given, training = parser.parse_known_args(arguments)
    known = {"--" + name for name in vars(Settings())} | {
        "--no-" + name for name in vars(Settings())
    }
    for word in training:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            parser.error(f"unrecognized arguments: {flag}")
        if flag in SET_HERE:
            parser.error(f"{flag} is set here, for each run by itself{SET_HERE[flag]}")
    return given, training


def check_domains(folder: Path, was_there: bool) -> None:
    """UserError for a dataset of one domain, which is removed if it is new: nothing to compare."""
    domains = read_card(folder)["domains"]
    if len(domains) > 1:
        return
    if not was_there:
        shutil.rmtree(folder)
    raise UserError(
        f"the log has one domain, {next(iter(domains))!r}, so there is nothing to compare: name "
        "the column of the domain with --domain_col, or a table that has it with --domain_from"
    )


def dataset_flags(settings: DatasetSettings) -> list[str]:
    """The settings that differ from their defaults, as flags of make_dataset.py."""
    flags = []
    for option in dataclasses.fields(settings):
        value = getattr(settings, option.name)
        if value == option.default:
            continue
        if isinstance(value, tuple):
            flags += [f"--{option.name}", *value]
        else:
            flags.append(f"--{option.name}" if value is True else f"--{option.name}={value}")
    return flags


def train(plan: Plan, flags: list[str], deadline: float) -> None:
    """Train what is unfinished, until the deadline."""
    runs = plan.runs()
    for number, (mode, seed) in enumerate(runs, start=1):
        print(
            f"\n== run {number} of {len(runs)}: {mode}, seed {seed}{plan.minutes_left()}",
            flush=True,
        )
        was_finished, start = plan.is_finished(mode, seed), time.monotonic()
        name = plan.path(mode, seed).name
        own = [f"--mode={mode}", f"--seed={seed}", f"--run_name={name}", "--resume"]
        if not call("main.py", [*flags, *own], deadline):
            done = sum(plan.is_finished(*run) for run in runs)
            print(f"\ntime is up: {done} of {len(runs)} runs finished; the same command continues")
            return
        if not was_finished:
            plan.seconds.setdefault(mode, []).append(time.monotonic() - start)


def report(plan: Plan, out: Path, dataset: list[str], k: int) -> None:
    """The report on the seeds whose runs are all finished, and lists of the best model."""
    seeds = [seed for seed in plan.seeds if all(plan.is_finished(mode, seed) for mode in MODES)]
    if not seeds:
        print("no seed has all its runs yet: no report")
        return
    paths = {mode: [plan.path(mode, seed) for seed in seeds] for mode in MODES}
    every = [str(path) for mode in MODES for path in paths[mode]]
    print(f"\n== report on {len(seeds)} of {len(plan.seeds)} seeds", flush=True)
    call("report.py", ["transfer", *every, "--out", str(out / "report")])
    quality = {mode: statistics.mean(map(validation, paths[mode])) for mode in MODES}
    best = max(quality, key=quality.__getitem__)
    print(
        f"\n== recommendations of {best}, the best on the validation split (ndcg@10: "
        + ", ".join(f"{mode} {value:.4f}" for mode, value in quality.items())
        + ")",
        flush=True,
    )
    lists = out / "recommendations.parquet"
    data = [flag for flag in dataset if flag.startswith("--data_dir")]
    call("recommend.py", ["--run", str(paths[best][0]), f"--k={k}", "--out", str(lists), *data])
    print(f"\nreport: {out / 'report' / 'report.html'}\nrecommendations: {lists}")
    print(f"run: {paths[best][0]} (docs/serving.md#the-service: a service from it)")


def validation(run: Path) -> float:
    """NDCG@10 of the paths that serve, mean over domains, among all items of the domain."""
    paths = read_results(run)["valid"]["full"]
    path = next(path for path in ("served", "cross", "single") if path in paths)
    return paths[path]["macro"]["ndcg@10"]


def call(command: str, flags: list[str], deadline: float = math.inf) -> bool:
    """Run a command of the project; False where the deadline came first, and it has saved.

    Ends with the status of a command that fails, which has said why.
    """
    # in a session of its own, so that a Ctrl-C reaches it once, from here
    process = subprocess.Popen(
        [sys.executable, str(ROOT / command), *flags], start_new_session=True
    )
    try:
        status = process.wait(
            None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        )
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        if status in (EXIT_INTERRUPTED, -signal.SIGTERM):
            return False
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)  # it saves
        process.wait()
        raise
    if status:
        sys.exit(status)
    return True


if __name__ == "__main__":
    run_command(main)
