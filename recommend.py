"""Recommend: run folder or bundle -> top-K items per user and domain.

    python recommend.py --run runs/amazon/syncrec-ce-seed42 --k 10

The context is all of a user's events in the log, including validation and test events, and the new
ones of --events. A bundle (export.py) has no log: there it is the events of --events alone.
"""

import src.io.starting  # noqa: F401  # isort: skip

from src.config.cli import build_parser, from_namespace
from src.config.recommend_settings import RecommendSettings, check_flags
from src.io.errors import run_command
from src.io.starting import set_libraries_aside


def main(arguments: list[str] | None = None) -> None:
    """Rank, and write the table. Raises UserError for mistakes."""
    parser = build_parser(RecommendSettings, __doc__.splitlines()[0])
    settings = from_namespace(RecommendSettings, parser.parse_args(arguments))
    check_flags(settings)
    from src.serving.recommend import recommend  # torch, and what is built on it
    from utils import start_process

    set_libraries_aside()
    recommend(settings, start_process)


if __name__ == "__main__":
    run_command(main)
