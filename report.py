"""Tables, comparisons and figures from finished runs; nothing is trained or scored again.

    python report.py table RUN [RUN …]                    runs side by side, by domain
    python report.py compare RUN[:PATH] RUN[:PATH] […]    paired differences with uncertainty
    python report.py protocols RUN [RUN …]                models under every candidate protocol
    python report.py transfer RUN [RUN …]                 the negative-transfer report

RUN is a run folder of main.py. `python report.py COMMAND --help` lists a command's flags.
"""

import src.io.starting  # noqa: F401  # isort: skip

import argparse

from src.config.cli import OneLineParser
from src.config.names import load
from src.config.report_flags import COMMANDS
from src.io.errors import run_command
from src.io.starting import set_libraries_aside


def parse_arguments() -> argparse.Namespace:
    """The command and its flags."""
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_flags(commands.add_parser(name, help=command.summary, allow_abbrev=False))
    return parser.parse_args()


def main() -> None:
    """Run the requested command. Raises UserError for mistakes of the user."""
    arguments = parse_arguments()
    run = load(COMMANDS[arguments.command].path)  # pandas, and what is built on it
    set_libraries_aside()
    run(arguments)


if __name__ == "__main__":
    run_command(main)
