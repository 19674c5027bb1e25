"""Make a dataset folder from raw logs.

python make_dataset.py --data_name amazon --strd_ym 202312
"""

import src.io.starting  # noqa: F401  # isort: skip

from src.config.cli import build_parser, from_namespace
from src.config.dataset_settings import DatasetSettings
from src.io.errors import run_command
from src.io.starting import set_libraries_aside


def main(arguments: list[str] | None = None) -> None:
    """Make the dataset folder that the flags describe, or reuse an existing one.

    UserError for every mistake of the user.
    """
    parser = build_parser(DatasetSettings, "Make a dataset folder from a raw multi-domain log.")
    settings = from_namespace(DatasetSettings, parser.parse_args(arguments))
    from src.dataset.make import run  # the data engine, and what is built on it

    set_libraries_aside()
    run(settings)


if __name__ == "__main__":
    run_command(main)
