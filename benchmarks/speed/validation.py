"""What validation costs beside an epoch's steps, and all protocols beside `full_all` alone.

    python benchmarks/speed/validation.py --data_dir src/dataset/processed/amazon/202312
    python benchmarks/speed/validation.py --data_dir DIR --config configs/abxi.json --json

Each round trains an epoch, validates as training does, and then scores `--scored` test targets as
the end of a run does: by every path of the model, by their blend and by the count models, first
under `full_all` alone, then under all protocols, with the lists of ten. `validation_share` is the
time of the validation over that of the steps, `scoring_ratio` that of all protocols over
`full_all`; with `cpu_` before them, of CPU time, which other work on the machine blurs less.
Medians of the rounds, after one of warm-up.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import machine, make_parser, print_result, say, spread, start
from src.config.names import PROTOCOLS, RELEASED
from src.config.protocols import DRAWN
from src.config.settings import Settings
from src.dataset.store.exclusion import excludes_seen
from src.dataset.store.folder import TEST, Dataset, open_dataset
from src.dataset.store.repeats import repeat_share
from src.evaluation.blend import Blend, blended, feature_names, without_parts
from src.evaluation.path_scores import fit_count_models, score_paths
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan
from src.evaluation.targets import drawn_candidates, split_targets
from src.io.errors import run_command
from src.runs.command import parse_command
from src.training.processes import Process
from src.training.random_state import seed_everything
from trainers import Trainer

Times = tuple[float, float]  # wall and CPU seconds


def timed(work: Callable[[], Any]) -> Times:
    """What a piece of work takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def rounds_of(
    settings: Settings, dataset: Dataset, process: Process, rounds: int, scored: int, folder: Path
) -> dict[str, list[Times]]:
    """The times of each piece, round by round; `scored` test targets are scored."""
    seed_everything(settings.seed)
    trainer = Trainer(settings, dataset, folder, process)
    valid, test = split_targets(dataset, "valid"), split_targets(dataset, "test")
    sets, negatives = (*DRAWN, RELEASED), settings.sampled_negatives
    drawn = drawn_candidates(dataset, test, sets, negatives, 0, folder)
    rows = np.arange(len(test.events))[:: -(-len(test.events) // scored)]
    drawn = {name: items[rows] for name, items in drawn.items()}
    columns = {name: values[rows] for name, values in vars(test).items() if name != "split"}
    test = dataclasses.replace(test, **columns)
    models = fit_count_models(dataset, settings)
    names = feature_names(settings.paths, blended(models, settings))
    blend = Blend(names, np.ones((len(dataset.domain_names), len(names))))
    blend = without_parts(blend, blended(models, settings))
    excludes = excludes_seen(repeat_share(dataset))
    plans = {
        name: Plan(dataset, test, protocols, drawn, process.device, excludes)
        for name, protocols in (("full_all", ("full_all",)), ("all", PROTOCOLS))
    }
    times: dict[str, list[Times]] = {"steps": [], "validation": [], "full_all": [], "all": []}
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}")
        times["steps"].append(timed(trainer.train_epoch))
        times["validation"].append(timed(lambda: trainer.validate_epoch(valid)))
        ensemble = Ensemble([trainer.model.eval()])
        for name, plan in plans.items():
            work = (ensemble, settings, plan, process, models, name == "all", blend)
            times[name].append(timed(lambda work=work: score_paths(*work)))
    return {name: values[1:] for name, values in times.items()}  # one of warm-up


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--data_dir", type=Path, required=True, help="dataset folder")
    parser.add_argument("--config", type=Path, default=Path("configs/quick.json"), help="settings")
    parser.add_argument("--scored", type=int, default=4096, help="test targets to score (4096)")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    words = [f"--config={parsed.config}", f"--data_dir={parsed.data_dir}"]
    settings = dataclasses.replace(parse_command(words).settings, device=process.device.type)
    dataset = open_dataset(parsed.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        times = rounds_of(settings, dataset, process, parsed.rounds, parsed.scored, Path(folder))
    ratios = {
        f"{prefix}{name}": [
            a[kind] / b[kind] for a, b in zip(times[above], times[below], strict=True)
        ]
        for name, above, below in (
            ("validation_share", "validation", "steps"), ("scoring_ratio", "all", "full_all"),
        )
        for kind, prefix in enumerate(("", "cpu_"))
    }  # fmt: skip
    result = {
        "data": dataset.card["data_name"],
        "users": dataset.users,
        "items": dataset.item_rows - 1,
        "targets": int(dataset.split_counts[TEST].sum()),
        **{name: median(values) for name, values in ratios.items()},
        "seconds": {name: median(wall for wall, _ in values) for name, values in times.items()},
        "cpu_seconds": {name: median(cpu for _, cpu in values) for name, values in times.items()},
        "rounds": times,
        **machine(process),
    }
    rows = [[f"{dataset.card['data_name']}, {parsed.config.name}", "median (range)"]]
    rows += [
        [f"{name}, CPU s", spread([cpu for _, cpu in values])] for name, values in times.items()
    ]
    rows += [[name, spread(values, 3)] for name, values in ratios.items()]
    print_result(result, rows, parsed.json)


if __name__ == "__main__":
    run_command(main)
