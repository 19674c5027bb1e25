"""Raw logs in, dataset folder out.

python make_dataset.py --data_name amazon --strd_ym 202312
"""

from pathlib import Path

from tqdm import tqdm

from src.arguments import build_parser, from_namespace
from src.dataset.card import make_card
from src.dataset.card_text import card_console, generated_notes
from src.dataset.engine import connected, rows
from src.dataset.folder import dataset_folder
from src.dataset.rawfiles import file_record
from src.dataset.readers import READERS, Columns, choose_format, parse, raw_files
from src.dataset.reuse import existing_card
from src.dataset.sequences import build_sequences, select_events
from src.dataset.settings import DatasetSettings, as_date, content_options, cutoff
from src.dataset.writer import new_folder, write_dataset
from src.errors import run_command

ROOT = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    """Make the dataset folder that the flags describe, or reuse it when it stands.

    Raises UserError for every mistake of the user.
    """
    parser = build_parser(DatasetSettings, "Make a dataset folder from a raw multi-domain log.")
    settings = from_namespace(DatasetSettings, parser.parse_args(arguments))
    raw_dir = ROOT / "src" / "dataset" / "raw" / settings.data_name
    raw_dir = Path(settings.raw_dir) if settings.raw_dir else raw_dir
    folder = dataset_folder(ROOT, settings.data_name, settings.strd_ym, settings.variant)
    folder = Path(settings.out_dir) if settings.out_dir else folder
    raw_format, reason = choose_format(raw_dir, settings.format)
    print(f"reading {raw_dir} as {raw_format} ({reason})")
    options = content_options(settings, raw_format)
    records = [file_record(path) for path in raw_files(raw_dir, raw_format)]
    card = existing_card(folder, options, records)
    if card:
        print(f"{folder} was made from this log with these options: reused")
    else:
        card = make_dataset(settings, raw_dir, folder, options, records)
    notes = generated_notes(card)
    for name in sorted(set(settings.domains) - set(card["domains"])):
        notes.append(f"NOTE: no event of domain {name} is left")
    print("\n".join([*notes, card_console(card), f"dataset folder: {folder}"]))


def make_dataset(
    settings: DatasetSettings, raw_dir: Path, folder: Path, options: dict, records: list[dict]
) -> dict:
    """Read, select, order, split, number and write; the data card."""
    columns = Columns(settings.user_col, settings.item_col, settings.domain_col, settings.time_col)
    with (
        new_folder(folder) as partial,
        tqdm(total=4, desc="reading", disable=None, leave=False) as progress,
    ):
        with connected(settings.threads, partial / "spill") as engine:
            raw = READERS[options["format"]](engine, raw_dir, columns)
            events = parse(engine, raw)
            total = rows(events)
            advance(progress, "filters")
            kept, dropped = select_events(engine, events, settings)
            advance(progress, "order and split")
            sequences = build_sequences(engine, kept, settings)
        advance(progress, "writing")
        provenance = {
            "data_name": settings.data_name,
            "strd_ym": settings.strd_ym,
            "cutoff": as_date(cutoff(settings.strd_ym) - 1),
            "source": raw.source,
            "notes": raw.notes,
            "raw_files": records,
        }
        card = make_card(
            sequences, provenance=provenance, options=options, rows=total, dropped=dropped
        )
        write_dataset(partial, sequences, card)
        progress.update()
    return card


def advance(progress: tqdm, next_step: str) -> None:
    progress.update()
    progress.set_description(next_step)


if __name__ == "__main__":
    run_command(main)
