"""What make_dataset.py does: raw log -> dataset folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from src.config.dataset_settings import DatasetSettings, as_date, content_options, end_of_log
from src.dataset.build.card import make_card
from src.dataset.build.commands import card_commands
from src.dataset.build.reuse import (
    ExistingDataset,
    check_same_content,
    existing_dataset,
    holds_dataset,
)
from src.dataset.build.selection import select_events
from src.dataset.build.sequences import Sequences, build_sequences
from src.dataset.build.spelling import chosen_domains
from src.dataset.build.staging import remove_leftovers, staging_folder, temporary_folder
from src.dataset.build.suggest import suggest_filters
from src.dataset.build.writer import write_rejected, write_tables
from src.dataset.engine.base import Engine, open_engine
from src.dataset.ingest.detect_format import choose_format
from src.dataset.ingest.raw_files import FileRecord, is_remote
from src.dataset.ingest.read_log import file_records, parse, read_log
from src.dataset.ingest.rejects import REJECTED, TooManyRejected, first_rejected
from src.dataset.store.card_text import card_console, card_notes, suggestion_table
from src.dataset.store.folder import dataset_folder, open_dataset
from src.dataset.store.verify import verify_dataset
from src.io.errors import UserError
from src.io.files import write_atomically
from src.io.paths import ROOT


def run(settings: DatasetSettings) -> None:
    """Make the dataset folder that the settings describe, or reuse an existing one, and print its
    card; or do what `suggest` or `describe` asks for. UserError for every mistake of the user."""
    if settings.suggest:
        suggest(settings)
    elif settings.describe:
        describe(settings)
    else:
        folder = dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)
        folder = Path(settings.out_dir) if settings.out_dir else folder
        card, is_new = make_dataset(settings, folder)
        if not is_new:
            print(f"reusing {folder}, which was made from this log with these options")
        print_card(settings, card)
        print(f"dataset folder: {folder}")


@dataclass(frozen=True)
class Log:
    """A raw log: its location, its format, and the card's records of its files."""

    location: str
    format: str
    records: list[FileRecord]


def raw_location(settings: DatasetSettings) -> str:
    """The folder, glob or URI of the raw log."""
    return settings.raw_dir or str(ROOT / "src" / "dataset" / "raw" / settings.data_name)


def find_log(settings: DatasetSettings, engine: Engine | None = None) -> Log:
    """Recognise the raw log and print its format; a remote log needs the engine."""
    location = raw_location(settings)
    aside = settings.domain_from, settings.exclude
    raw_format, reason = choose_format(location, settings.format, engine, *aside)
    print(f"reading {location} as {raw_format} ({reason})")
    records = file_records(engine, location, raw_format, *aside)
    return Log(location, raw_format, records)


def make_dataset(settings: DatasetSettings, folder: Path) -> tuple[dict[str, Any], bool]:
    """Make the dataset folder unless it exists; returns its card and whether it is new.

    Where the raw log has changed since, the dataset is made once more beside it and compared: later
    events change nothing, others are refused.
    """
    holds_dataset(folder)  # refused before the log is read
    log = None if is_remote(raw_location(settings)) else find_log(settings)
    existing = log and find_existing(settings, folder, log)
    if existing and not existing.changes:
        remove_leftovers(folder)
        return existing.card, False
    with staging_folder(folder, settings.temp_dir) as staging:
        with open_engine(settings, staging.spill) as engine:
            log = log or find_log(settings, engine)
            # another command may have made the folder by now
            existing = find_existing(settings, folder, log)
            if existing and not existing.changes:
                return existing.card, False
            try:
                result = process_log(engine, settings, log, staging.folder)
            except TooManyRejected as refusal:
                raise keep_sample(refusal, folder) from None
        # the engine, which holds memory, is closed: the rest does not need it
        card = make_card(result.sequences, **result.card_inputs)
        if existing:
            check_same_content(existing, card)
            print(f"the raw log has {existing.changes}: nothing new up to the cut-off")
            return existing.card, False
        write_rejected(staging.folder / REJECTED, result.rejected)
        write_tables(staging.folder, result.sequences, card, card_commands(settings, card))
        verify_dataset(open_dataset(staging.folder))  # an unreadable folder never gets the name
        staging.complete = True
    sample_file(folder).unlink(missing_ok=True)  # of an attempt that was refused
    return card, True


def sample_file(folder: Path) -> Path:
    """Where rejected rows are written if the dataset folder is not made: beside it."""
    target = folder.resolve()
    return target.with_name(f"{target.name}-{REJECTED}")


def keep_sample(refusal: TooManyRejected, folder: Path) -> UserError:
    """Write the sample of a refusal; returns the refusal, which then names the file."""
    path = sample_file(folder)
    try:
        write_atomically(path, lambda temporary: write_rejected(temporary, refusal.sample))
    except UserError:  # what is wrong with the log is more important
        return refusal
    return UserError(f"{refusal}; see {path}")


def find_existing(settings: DatasetSettings, folder: Path, log: Log) -> ExistingDataset | None:
    """The dataset that the folder holds, if it was made with these options."""
    return existing_dataset(folder, content_options(settings, log.format), log.records)


@dataclass(frozen=True)
class ProcessedLog:
    """The result of the engine: the sequences, and the inputs of the card."""

    sequences: Sequences
    card_inputs: dict[str, Any]  # provenance, options, dropped, named_by_files
    rejected: list[dict[str, Any]]  # a sample of the rejected raw rows


def process_log(engine: Engine, settings: DatasetSettings, log: Log, folder: Path) -> ProcessedLog:
    """Read, filter, order, split and number the events; writes the arrays into `folder`."""
    with tqdm(total=3, desc="reading", disable=None, leave=False) as progress:
        raw = read_log(engine, log.location, log.format, settings)
        for remark in raw.remarks:
            tqdm.write(f"  {remark}")
        parsed = parse(engine, raw, settings)
        advance(progress, "filters and order")
        selection = select_events(engine, parsed.events, settings)
        advance(progress, "sequences")
        sequences = build_sequences(engine, selection, settings, folder / "sequences")
        progress.update()
    provenance = {
        "data_name": settings.data_name,
        "strd_ym": settings.strd_ym,
        "cutoff": as_date(end_of_log(settings) - 1),
        "source": raw.description,
        "notes": raw.notes,
        "raw_files": log.records,
        "times": parsed.times,
        "rows": parsed.rows,
        "rejected": parsed.rejected,
    }
    card_inputs = {
        "provenance": provenance,
        "options": content_options(settings, log.format),
        "dropped": {"rejected": sum(parsed.rejected.values())}
        | parsed.filtered
        | selection.dropped,
        "named_by_files": raw.domains_by_name,
    }
    return ProcessedLog(sequences, card_inputs, parsed.sample)


def advance(progress: tqdm, next_step: str) -> None:
    """Count a step of the progress bar and name the next one."""
    progress.update()
    progress.set_description(next_step)


def describe(settings: DatasetSettings) -> None:
    """Print the card of the dataset that would be made."""
    with (
        temporary_folder(settings.temp_dir) as temporary,
        open_engine(settings, temporary) as engine,
    ):
        folder = temporary / "dataset"
        folder.mkdir()
        result = process_log(engine, settings, find_log(settings, engine), folder)
        card = make_card(result.sequences, **result.card_inputs)
    # the folder's rejected.csv is not written
    print_card(settings, card, *map(first_rejected, result.rejected[:1]))
    print("nothing was written (--describe)")


def suggest(settings: DatasetSettings) -> None:
    """Print filters that keep at least --suggest users in every domain."""
    with (
        temporary_folder(settings.temp_dir) as temporary,
        open_engine(settings, temporary) as engine,
    ):
        log = find_log(settings, engine)
        parsed = parse(engine, read_log(engine, log.location, log.format, settings), settings)
        suggestions = suggest_filters(engine, parsed.events, settings)
    print(suggestion_table(suggestions, settings.suggest))
    print("nothing was written (--suggest)")


def print_card(settings: DatasetSettings, card: dict[str, Any], *rejected: str) -> None:
    """Print the notes and the summary of the card; `rejected` describes rejected rows."""
    notes = card_notes(card, *rejected)
    for name in sorted(set(chosen_domains(settings)) - set(card["domains"])):
        notes.append(f"NOTE: no event of domain {name} is left")
    print("\n".join([*notes, card_console(card)]))
