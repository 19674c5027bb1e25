"""Raw logs in, dataset folder out.

python make_dataset.py --data_name amazon --strd_ym 202312
"""

import signal
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from src.config.cli import build_parser, from_namespace
from src.config.dataset_settings import DatasetSettings, as_date, content_options, cutoff
from src.dataset.build.card import make_card
from src.dataset.build.reuse import existing_card
from src.dataset.build.selection import select_events
from src.dataset.build.sequences import Sequences, build_sequences
from src.dataset.build.staging import staging_folder, temporary_folder
from src.dataset.build.suggest import suggest_filters
from src.dataset.build.writer import write_rejected, write_tables
from src.dataset.engine.base import Engine, connected
from src.dataset.ingest.raw_files import is_remote
from src.dataset.ingest.read_log import choose_format, file_records, parse, read_log
from src.dataset.store.card_text import card_console, card_notes, suggestion_table
from src.dataset.store.folder import dataset_folder, open_dataset
from src.dataset.store.verify import verify_dataset
from src.io.errors import run_command

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    """Make the dataset folder that the flags describe, or reuse it when it stands.

    Raises UserError for every mistake of the user.
    """
    parser = build_parser(DatasetSettings, "Make a dataset folder from a raw multi-domain log.")
    settings = from_namespace(DatasetSettings, parser.parse_args(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    if settings.suggest:
        suggest(settings)
    elif settings.describe:
        describe(settings)
    else:
        folder = dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)
        folder = Path(settings.out_dir) if settings.out_dir else folder
        card, made = make_dataset(settings, folder)
        if not made:
            print(f"{folder} was made from this log with these options: reused")
        print_card(settings, card)
        print(f"dataset folder: {folder}")


@dataclass(frozen=True)
class Log:
    """A raw log: where it lies, how it is written, and what the card keeps of its files."""

    place: str
    format: str
    records: list[dict]


def raw_place(settings: DatasetSettings) -> str:
    """The folder, glob or URI of the raw log."""
    return settings.raw_dir or str(ROOT / "src" / "dataset" / "raw" / settings.data_name)


def find_log(settings: DatasetSettings, engine: Engine | None = None) -> Log:
    """Look what the raw log is, and say it; another file system than this machine's needs the
    engine."""
    place = raw_place(settings)
    raw_format, reason = choose_format(place, settings.format, engine)
    print(f"reading {place} as {raw_format} ({reason})")
    return Log(place, raw_format, file_records(engine, place, raw_format))


def make_dataset(settings: DatasetSettings, folder: Path) -> tuple[dict, bool]:
    """Make the dataset folder where it is not there; its card, and whether it was made now."""
    log = None if is_remote(raw_place(settings)) else find_log(settings)
    if log and (card := existing_card(folder, content_options(settings, log.format), log.records)):
        return card, False
    with staging_folder(folder, settings.temp_dir) as staging:
        with connected(settings, staging.spill) as engine:
            log = log or find_log(settings, engine)
            # another command may have made the folder until now
            if card := existing_card(folder, content_options(settings, log.format), log.records):
                return card, False
            made = lay_out(engine, settings, log, staging.folder)
        # what follows needs no engine, which holds memory
        card = make_card(made.sequences, **made.known)
        write_rejected(staging.folder, made.rejected)
        write_tables(staging.folder, made.sequences, card)
        verify_dataset(open_dataset(staging.folder))  # what cannot be read back never gets the name
        staging.complete = True
    return card, True


@dataclass(frozen=True)
class LaidOut:
    """What the engine has done: the sequences, and what the card must know besides."""

    sequences: Sequences
    known: dict  # provenance, options, dropped
    rejected: list[dict]  # a sample of the raw rows that cannot be used


def lay_out(engine: Engine, settings: DatasetSettings, log: Log, folder: Path) -> LaidOut:
    """Read, select, order, split and number; the arrays lie in an empty folder then."""
    with tqdm(total=3, desc="reading", disable=None, leave=False) as progress:
        raw = read_log(engine, log.place, log.format, settings)
        parsed = parse(engine, raw, settings)
        advance(progress, "filters and order")
        selection = select_events(engine, parsed.events, settings)
        advance(progress, "sequences")
        sequences = build_sequences(engine, selection, settings, folder / "sequences")
        progress.update()
    provenance = {
        "data_name": settings.data_name,
        "strd_ym": settings.strd_ym,
        "cutoff": as_date(cutoff(settings.strd_ym) - 1),
        "source": raw.source,
        "notes": raw.notes,
        "raw_files": log.records,
        "times": parsed.times,
        "rows": parsed.rows,
        "rejected": parsed.rejected,
    }
    known = {
        "provenance": provenance,
        "options": content_options(settings, log.format),
        "dropped": {"rejected": sum(parsed.rejected.values())} | selection.dropped,
    }
    return LaidOut(sequences, known, parsed.sample)


def advance(progress: tqdm, next_step: str) -> None:
    progress.update()
    progress.set_description(next_step)


def describe(settings: DatasetSettings) -> None:
    """Print the card of the dataset that would be made."""
    with temporary_folder(settings.temp_dir) as folder, connected(settings, folder) as engine:
        made = folder / "made"
        made.mkdir()
        laid_out = lay_out(engine, settings, find_log(settings, engine), made)
        card = make_card(laid_out.sequences, **laid_out.known)
    print_card(settings, card)
    print("nothing was written (--describe)")


def suggest(settings: DatasetSettings) -> None:
    """Print which filters keep --suggest users in every domain."""
    with temporary_folder(settings.temp_dir) as folder, connected(settings, folder) as engine:
        log = find_log(settings, engine)
        parsed = parse(engine, read_log(engine, log.place, log.format, settings), settings)
        found = suggest_filters(engine, parsed.events, settings)
    print(suggestion_table(found, settings.suggest))
    print("nothing was written (--suggest)")


def print_card(settings: DatasetSettings, card: dict) -> None:
    """The card on the console, what must be seen first."""
    notes = card_notes(card)
    for name in sorted(set(settings.domains) - set(card["domains"])):
        notes.append(f"NOTE: no event of domain {name} is left")
    print("\n".join([*notes, card_console(card)]))


if __name__ == "__main__":
    run_command(main)
