"""Export: run folder -> a bundle, everything that a service needs of the run.

    python export.py runs/amazon/syncrec-ce-seed42 --out bundle

A bundle has no training data. docs/serving.md describes its files.
"""

import src.io.starting  # noqa: F401  # isort: skip

from pathlib import Path

from src.config.cli import build_parser, from_namespace
from src.config.export_settings import ExportSettings
from src.io.errors import run_command
from src.io.starting import set_libraries_aside


def main(arguments: list[str] | None = None) -> None:
    """Export, and print where the bundle is. Raises UserError for mistakes."""
    parser = build_parser(ExportSettings, __doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder of main.py")
    options = parser.parse_args(arguments)
    settings = from_namespace(ExportSettings, options)
    from src.serving.export import export  # torch, and what is built on it
    from utils import start_process

    set_libraries_aside()
    export(options.run, settings, start_process)


if __name__ == "__main__":
    run_command(main)
