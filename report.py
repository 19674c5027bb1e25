"""Tables, comparisons and figures from finished runs; nothing is trained or scored again.

    python report.py table RUN [RUN …]                    runs side by side, by domain
    python report.py compare RUN[:PATH] RUN[:PATH] […]    paired differences, their uncertainty
    python report.py protocols RUN [RUN …]                models under every protocol
    python report.py transfer RUN [RUN …]                 the negative-transfer report

RUN is a run folder of main.py; `--help` after a command tells its flags.
"""

import argparse

from src.config.cli import OneLineParser
from src.io.errors import run_command
from src.report import compare, protocols, tables, transfer

COMMANDS = {
    "table": (tables, "runs side by side, by domain"),
    "compare": (compare, "paired differences, their intervals and p-values, on the same targets"),
    "protocols": (protocols, "models under every protocol that they were scored under"),
    "transfer": (transfer, "the negative-transfer report"),
}


def parse_arguments() -> argparse.Namespace:
    """The command and its flags."""
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, help) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=help, allow_abbrev=False))
    return parser.parse_args()


def main() -> None:
    """Run the command that is asked for. Raises UserError for mistakes."""
    arguments = parse_arguments()
    COMMANDS[arguments.command][0].run(arguments)


if __name__ == "__main__":
    run_command(main)
