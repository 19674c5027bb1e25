"""Does a gap between the views, known while training, predict the measured transfer?

A point is one (log, domain, seed) of a model with both views: what its run knew at its best epoch
(src/report/run_records.py) against the measured transfer of the domain, the mean over seeds of a
pair of models such as CDSR − one model per domain. The larger, the more joining helps; neutral is
1 for D·γ, 0 for all others.
"""

import numpy as np
import pandas as pd

from src.report.compare import Row
from src.report.finished_runs import Run, least_targets
from src.report.formatting import interval, number
from src.report.recorded_runs import RecordedRun
from src.report.table_files import markdown
from src.report.transfer.gamma_correlation import ENOUGH, Correlation, correlation
from src.runs.records import MEANS

PREDICTORS = {  # columns of a point
    "phi": "φ, on the training targets",
    "share": "D·γ of the paper's rule",
    "held_out_gap": "gap on events that are not trained on",
    "certain_gap": "the same in its standard errors",
}


def model_name(run: Run) -> str:
    """The name of a run's model in the spec."""
    return run.name.removesuffix(f"-seed{run.seed}")


def gap_points(log: str, runs: list[RecordedRun], rows: list[Row]) -> pd.DataFrame:
    """One row per domain of each run that recorded gaps: data, model, seed, domain, the columns of
    PREDICTORS, weight, and transfer, from the `rows` of the measured pair. Domains with too few
    targets for the macro mean (`--min_domain_targets`) are left out."""
    least = least_targets(runs)
    transfer = {
        row.domain: row.difference
        for row in rows
        if row.domain not in MEANS and row.targets >= least
    }
    points = []
    for run in runs:
        gaps = run.record.content.get("gaps")
        for domain, values in (gaps["domains"] if gaps else {}).items():
            if domain not in transfer:  # it has no target, or the log lacks the pair
                continue
            knew = pd.Series(dict(zip(gaps["columns"], values, strict=True)), dtype=float)
            points.append(
                {
                    "data": log, "model": model_name(run), "seed": run.seed, "domain": domain,
                    "phi": knew.phi, "share": knew.gamma * len(gaps["domains"]),
                    "held_out_gap": knew.held_out_gap,
                    "certain_gap": knew.held_out_gap / knew.held_out_error,
                    "weight": knew.weight, "transfer": transfer[domain],
                }
            )  # fmt: skip
    return pd.DataFrame(points)


def gaps_text(points: pd.DataFrame, pair: tuple[str, str]) -> str:
    """Spearman's ρ of each predictor with the transfer, for each model over all logs."""
    cells = []
    for model, own in points.groupby("model", sort=False):
        for column, label in PREDICTORS.items():
            found = correlation(own, column)
            if found.points:
                cells.append([model, label, *_cells(found)])
    head = ["model", "known while training", "verdict", "ρ", "95 % interval", "domains"]
    return (
        f"## Does a gap predict the transfer?\n\nSpearman's ρ with the measured {pair[0]} − "
        f"{pair[1]} of a domain, over the domains and seeds of all logs; no interval below "
        f"{ENOUGH} domains\n\n" + markdown(head, cells, 3)
    )


def _cells(found: Correlation) -> list[str]:
    known = np.isfinite(found.low)
    return [
        found.verdict, number(found.rho, 2),
        interval(found.low, found.high, 2) if known else "–", str(found.clusters),
    ]  # fmt: skip
