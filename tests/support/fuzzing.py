"""What the fuzzer feeds: every parser and loader of the repository, by spoiled files and flags.

Each target spoils one good file of the world, or makes up flags, and reads them as the commands do.
An input is accepted or refused, by a UserError or argparse's exit status 2; anything else is a
finding. The same seed feeds the same inputs.
"""

import dataclasses
import io
import json
import signal
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from src.config.cli import build_parser, config_defaults, from_namespace
from src.config.dataset_settings import DatasetSettings
from src.config.settings import Settings
from src.config.validation import check_settings
from src.dataset.store.folder import open_named
from src.dataset.store.verify import check_events, verify_dataset
from src.io.errors import EXIT_USER_ERROR, UserError, run_command
from src.runs import divergence, lifecycle, training_state
from src.runs.command import parse_command
from src.runs.tables import METRICS_COLUMNS, Table
from tests.support import readers
from tests.support.command_runs import data_step
from tests.support.spoiling import Draw, json_values, spoiled, words
from tests.support.tiny_world import TINY, World, data_flags

LIMIT_S = 120.0  # an input that takes longer hangs: most take milliseconds, raw logs half a second
ACCEPTED, REFUSED = "accepted", "refused"
ANSWERS: dict[str, Counter] = defaultdict(Counter)  # {target: how often each answer came}


class Hang(BaseException):
    """An input took longer than it may."""


def answer(run: Callable[[], Any], limit: float = LIMIT_S) -> str:
    """How `run` ends: accepted, refused, or a finding: the exception and where it came from."""

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            run()
    except UserError:
        return REFUSED
    except SystemExit as stopped:
        return REFUSED if stopped.code == EXIT_USER_ERROR else f"exit status {stopped.code}"
    except HypothesisException:  # not this input's answer: hypothesis draws another one
        raise
    except Hang:
        return f"hang: more than {limit:g} s"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = [frame for frame in frames if "site-packages" not in frame.filename][-1]
        where = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]} ({where})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return ACCEPTED


def feed(name: str, target: Callable[[Draw], str], examples: int, first_seed: int = 0) -> None:
    """Ask for the answer to so many inputs of a target; a finding fails, with its input."""

    @seed(first_seed)
    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def one_input(data) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = target(data.draw)
        ANSWERS[name][told] += 1
        assert told in (ACCEPTED, REFUSED), told

    one_input()


# ------------------------------------------------------------------------ settings and flags


def config_file(world: World, draw: Draw) -> None:
    """A settings file of any shape, or a good one spoiled."""
    path = world.run / "config.json"
    if draw(st.booleans()):
        with spoiled(draw, path):
            check_settings(Settings(**config_defaults(Settings, path)))
        return
    names = st.sampled_from(sorted(vars(Settings()))) | words
    content = draw(st.dictionaries(names, json_values, max_size=5))
    path = world.root / "made.json"
    path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))
    parse_command([f"--config={path}"])


def odd_flags(settings_class: type, draw: Draw) -> list[str]:
    """One or two flags with odd values."""
    flags: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from([field.name for field in dataclasses.fields(settings_class)]))
        value = draw(words).replace("\0", "")
        forms = ([f"--{name}={value}"], [f"--{name}", value], [f"--no-{name}"])
        flags += draw(st.sampled_from(forms))
    return flags


def run_flags(world: World, draw: Draw) -> None:
    """Flags of main.py; those that are accepted find data and run folder."""
    flags = [*TINY, f"--data_dir={world.data}", f"--runs_dir={world.root / 'elsewhere'}"]
    flags += odd_flags(Settings, draw)

    def find_run() -> None:
        chosen = parse_command(flags).settings
        dataset = open_named(chosen)
        lifecycle.find_run(chosen, lifecycle.run_folder(chosen, dataset), dataset.card["sha256"])

    run_command(find_run)


def data_step_flags(world: World, draw: Draw) -> None:
    """Flags of make_dataset.py; those that are accepted look at the raw log."""
    flags = [*data_flags(world.logs["csv"]), *odd_flags(DatasetSettings, draw)]
    from src.dataset.make import find_log  # loads a data engine, which the other tests do without

    parser = build_parser(DatasetSettings, "data")
    chosen = from_namespace(DatasetSettings, parser.parse_args(flags))
    if chosen.engine == "duckdb":
        run_command(lambda: find_log(chosen))


# ------------------------------------------------------------------------ data


def dataset_folder(world: World, draw: Draw) -> None:
    """A file of a dataset folder; what opens is verified, read and made batches of."""
    arrays = sorted((world.data / "sequences").iterdir())
    tables = [world.data / f"{name}.parquet" for name in ("users", "items")]
    card = world.data / "data_card.json"
    with spoiled(draw, draw(st.sampled_from([card, *arrays, *tables]))):
        dataset = open_named(readers.tiny_settings(world))
        try:
            verify_dataset(dataset)
        finally:
            check_events(dataset)  # training looks no further
            readers.use_dataset(world, dataset)


def reused_dataset(world: World, draw: Draw) -> None:
    """make_dataset.py on a folder that stands, its card spoiled."""
    with spoiled(draw, world.data / "data_card.json"):
        data_step(*data_flags(world.logs["csv"]), f"--out_dir={world.data}")


READING = (
    [], ["--max_rejected=1"], ["--shared_items", "--max_rejected=.5"],
    ["--events=view", "--max_rejected=1"], ["--min_rating=2", "--max_rejected=1"],
    ["--columns=user_id,item_id,domain,unix_time", "--max_rejected=1"],
    ["--time_format=%Y-%m-%d", "--max_rejected=1"], ["--time_unit=yyyymmdd", "--max_rejected=1"],
    ["--delimiter=;"], ["--format=table", "--max_rejected=1"],
)  # fmt: skip


def raw_log(world: World, draw: Draw) -> None:
    """A file of a raw log, in any format, by an absolute or a relative path."""
    folder = world.logs[draw(st.sampled_from(sorted(world.logs)))]
    place = draw(st.sampled_from([folder, folder.relative_to(world.root)]))
    options = draw(st.sampled_from(READING))
    with spoiled(draw, draw(st.sampled_from(sorted(folder.iterdir())))), chdir(world.root):
        data_step(*data_flags(place), "--describe", *options)


# ------------------------------------------------------------------------ runs


def checkpoint(world: World, draw: Draw) -> None:
    """A checkpoint; what is accepted trains on, and its step is computed again."""
    trainer = readers.new_trainer(world)
    path = world.run / draw(st.sampled_from(("within.pt", "last.pt")))
    if not path.is_file():
        readers.save_within(trainer, path)
    with spoiled(draw, path):
        training_state.load(trainer, path)
        if trainer.progress.position < trainer.loader.steps_per_epoch:
            trainer.train_epoch()
            _ = list(divergence.replay(trainer, path))


def best_checkpoint(world: World, draw: Draw) -> None:
    """best.pt, as recommend.py and a run that starts from it read it."""
    with spoiled(draw, world.run / "best.pt"):
        draw(st.sampled_from((readers.as_recommend, readers.start_from)))(world)


RUN_FILES = {  # file of a run: the readers that look at it
    "config.json": (
        readers.as_main, readers.as_recommend, readers.start_from, readers.as_table,
        readers.as_analysis,
    ),
    "environment.json": (readers.as_main, readers.start_from, readers.as_analysis),
    "results.json": (readers.as_main, readers.as_table, readers.as_protocols, readers.as_analysis),
    "serving.json": (readers.as_recommend, readers.as_analysis),
    "data_card.json": (readers.as_analysis, readers.as_comparison),
    "items.parquet": (readers.start_from,),
    "ranks.parquet": (readers.as_comparison, readers.as_protocols, readers.as_analysis),
    "targets.parquet": (readers.as_analysis,),
    "metrics.csv": (readers.as_analysis,),
    "transfer.csv": (readers.as_analysis,),
}  # fmt: skip


def run_folder(world: World, draw: Draw) -> None:
    """A file of a run folder, as any command reads it."""
    name = draw(st.sampled_from(sorted(RUN_FILES)))
    with spoiled(draw, world.run / name):
        if name == "metrics.csv":
            Table(world.run / name, METRICS_COLUMNS, 3)  # as a run goes on with it
        draw(st.sampled_from(RUN_FILES[name]))(world)


def candidates(world: World, draw: Draw) -> None:
    """A file of stored candidates, as a run that is scored again reads it."""
    with spoiled(draw, draw(st.sampled_from(sorted((world.run.parent / "candidates").iterdir())))):
        readers.score_candidates(world)


# target: how often it is fed, in parts; a raw log takes half a second, and some runs' files too
TARGETS: dict[Callable[[World, Draw], None], int] = {
    config_file: 30, run_flags: 24, data_step_flags: 10, dataset_folder: 36, reused_dataset: 8,
    raw_log: 3, checkpoint: 8, best_checkpoint: 4, run_folder: 8, candidates: 1,
}  # fmt: skip


def feed_target(
    world: World, target: Callable[[World, Draw], None], examples: int, first_seed: int = 0
) -> None:
    """Feed one of the targets."""
    name = target.__name__
    feed(name, lambda draw: answer(lambda: target(world, draw)), examples, first_seed)
