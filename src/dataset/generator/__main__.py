"""Write a generated log, or print the best ranking that one allows.

    python -m src.dataset.generator --out DIR --users 4000 --events 40 --seed 42
    python -m src.dataset.generator --limits --out results/limits
    python -m src.dataset.generator --preset planted --out DIR

`--preset` chooses the model that draws the log; it has flags of its own (`--preset NAME --help`).
"""

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from src.config.cli import OneLineParser, build_parser, from_namespace
from src.dataset.generator import interests, limits, planted
from src.io.errors import run_command


@dataclass(frozen=True)
class Preset:
    """A model that draws logs: its flags, and the command that they make."""

    config: type
    run: Callable[[Any], None]
    description: str


PRESETS = {
    "planted": Preset(
        planted.SyntheticConfig, planted.run, "Generate a multi-domain log with planted transfer."
    ),
    "interests": Preset(
        interests.InterestConfig,
        lambda config: limits.run(config) if config.limits else interests.run(config),
        "Generate a multi-domain log from a hidden Markov model, or its limits.",
    ),
}
DEFAULT = "interests"  # of the bundled log


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    chooser = OneLineParser(add_help=False, allow_abbrev=False)
    _add_preset(chooser)
    preset = PRESETS[chooser.parse_known_args(arguments)[0].preset]
    parser = build_parser(preset.config, preset.description)
    _add_preset(parser)
    preset.run(from_namespace(preset.config, parser.parse_args(arguments)))


def _add_preset(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=PRESETS, default=DEFAULT, help="the model; each has flags of its own"
    )


if __name__ == "__main__":
    run_command(main)
