"""Train SyNCRec, either of its tasks alone, or another model: dataset folder -> run folder.

    python main.py --data_name amazon --strd_ym 202312
    torchrun --nproc_per_node 2 main.py --data_name amazon --strd_ym 202312

The best checkpoint on validation is reloaded, and the test split is scored once, at the end.

Any number of processes trains the same model, and --resume may continue with another number. If one
process dies, the others print one line and exit; torchrun notices within a tenth of a second, waits
for them for at most 30 seconds and exits with status 1. SIGTERM or SIGINT to torchrun stops all of
them after the current step, with last.pt written. The connections of gloo and NCCL are configured
by their environment variables and torchrun's flags.
"""

import src.io.starting  # noqa: F401  # isort: skip

from src.io.errors import run_command
from src.io.starting import set_libraries_aside
from src.runs.command import parse_command


def main(arguments: list[str] | None = None) -> None:
    """Train, unless the run is finished, and print its results. Raises UserError for mistakes."""
    command = parse_command(arguments, __doc__.splitlines()[0])
    from runner import run  # torch, and what is built on it

    set_libraries_aside()
    run(command)


if __name__ == "__main__":
    run_command(main)
