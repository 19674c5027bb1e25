"""What export.py does: run folder -> a bundle, or the vectors of items and users."""

from collections.abc import Callable
from pathlib import Path

from src.config.export_settings import ExportSettings
from src.io.errors import UserError
from src.io.files import check_output
from src.io.folders import new_folder
from src.serving.bundle_files import SERVING, SUMS, fill_bundle, opened_run, with_counts
from src.serving.embeddings import USERS, fill_embeddings
from src.serving.export_model import ONNX, PT2, missing_packages
from src.training.processes import Process

INSTALL = "pip install -r requirements-export.txt"


def export(run: Path, settings: ExportSettings, start: Callable[[str], Process]) -> None:
    """Export, and print where the bundle is; `start` starts the process on a device. Raises
    UserError for mistakes."""
    folder = output_folder(settings.out, settings.overwrite)
    formats = [] if settings.embeddings else chosen_formats(settings.format)
    exported = opened_run(run, start(settings.device).device, settings.data_dir)
    exported = exported if settings.embeddings else with_counts(exported)
    with new_folder(folder) as temporary:
        if settings.embeddings:
            fill_embeddings(temporary, exported)
        else:
            fill_bundle(temporary, exported, formats)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(list(folder.iterdir()))} files, {size / 2**20:.1f} MiB: {folder}")


def chosen_formats(asked: tuple[str, ...]) -> list[str]:
    """The graphs to write; a printed line says what the default leaves out. UserError for an
    unknown one, and for one whose packages are missing."""
    for name in asked:
        if name not in (PT2, ONNX):
            raise UserError(f"--format {name} is unknown; give {PT2}, {ONNX} or both")
    lacking = {name: missing_packages(name) for name in asked or (PT2, ONNX)}
    for name, packages in lacking.items():
        if packages and asked:
            raise UserError(f"--format {name} needs {' and '.join(packages)}: {INSTALL}")
        if packages:
            print(f"no model.{name}: {' and '.join(packages)} not installed ({INSTALL})")
    return [name for name, packages in lacking.items() if not packages]


def output_folder(out: str, overwrite: bool) -> Path:
    """The folder to write; UserError, before any work, where it cannot be."""
    if not out:
        raise UserError("--out is required, as in --out bundle")
    folder = Path(out)
    check_output(folder, "--out", folder=True)
    if folder.exists() and any(folder.iterdir()):
        names = {path.name for path in folder.iterdir()}
        if not {SERVING, SUMS} <= names and USERS not in names:
            raise UserError(f"--out {folder} holds other files than an export; name a new folder")
        if not overwrite:
            raise UserError(f"--out {folder} holds an export; --overwrite replaces it")
    return folder
