"""The paper's central claim: does γ_d, known while training, predict the measured transfer?

A point is one (data set, domain, seed): D·γ_d of SyNCRec's run (1: uniform) against
Δ_d = joined − on its own of the runs with the same seed on the test targets. The seeds of a domain
are not independent, so the interval of Spearman's ρ resamples domains with all their seeds. Fewer
than ENOUGH domains have no interval: a bootstrap of so few ranks gives one that means nothing.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.config.modes import BASELINE_MODES
from src.report.transfer.data_sets import DataSet, TargetMetrics
from src.report.transfer.training_history import tested_transfer

ENOUGH = 10  # with fewer (data set, domain) pairs there is no interval and no conclusion
PAIRED = BASELINE_MODES[1]
RESAMPLES = 2000
POSITIVE, NEGATIVE, INCONCLUSIVE = "positive", "negative", "inconclusive"


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ over points in clusters, with its 95 % interval.

    rho, low and high are NaN if one of the two variables has fewer than two distinct values; low
    and high also with fewer than ENOUGH clusters.
    """

    rho: float
    low: float
    high: float
    points: int
    clusters: int
    used: int  # resamples in which both variables have two distinct values
    resamples: int

    @property
    def verdict(self) -> str:
        """POSITIVE, NEGATIVE or INCONCLUSIVE."""
        sure = self.clusters >= ENOUGH and np.isfinite(self.rho) and self.low * self.high > 0
        return (POSITIVE if self.rho > 0 else NEGATIVE) if sure else INCONCLUSIVE


def correlation_points(data: DataSet, measured: TargetMetrics) -> pd.DataFrame:
    """One row per domain and seed that both sides of Δ and SyNCRec share.

    Columns: data, domain, seed, share (D·γ at the epoch of the tested checkpoint), share_last (at
    the last epoch), phi (nats), transfer (Δ), transfer_paired (joined − the paired model, where it
    is not Δ itself and was run with this seed; else NaN), n. Raises UserError if transfer.csv lacks
    the epoch.
    """
    first, second = data.transfer_pair
    runs, rows = {run.seed: run for run in data.two_view.runs}, []
    for seed in sorted(set(runs) & set(measured.seeds(first, second))):
        gap = measured.by_seed[first][seed] - measured.by_seed[second][seed]
        paired = np.full(len(gap), np.nan)
        if second != PAIRED and seed in measured.by_seed.get(PAIRED, {}):
            paired = measured.by_seed[first][seed] - measured.by_seed[PAIRED][seed]
        trajectory = runs[seed].transfer()
        assert trajectory is not None  # checked by data_sets
        _, tested = tested_transfer(runs[seed], trajectory)
        last = trajectory[trajectory.epoch == trajectory.epoch.max()].set_index("domain")
        for number, domain in enumerate(measured.names):
            chosen = measured.domains == number
            if chosen.any():
                shares = [float(at.gamma[domain]) * len(measured.names) for at in (tested, last)]
                phi = float(tested.phi[domain])
                transfers = [float(one[chosen].mean()) for one in (gap, paired)]
                rows.append((data.name, domain, seed, *shares, phi, *transfers, chosen.sum()))
    measures = ["share", "share_last", "phi", "transfer", "transfer_paired"]
    columns = ["data", "domain", "seed", *measures, "n"]
    numbers = dict.fromkeys(measures, float)
    return pd.DataFrame(rows, columns=columns).astype(numbers)  # also if there is no row


def correlation(
    points: pd.DataFrame,
    predictor: str = "share",
    outcome: str = "transfer",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """Spearman's ρ of the columns `predictor` and `outcome`.

    The interval is a percentile bootstrap over (data, domain), if there are ENOUGH of them. Points
    without one of the two (φ of a domain that was not trained) are left out. So are resamples in
    which a variable is constant and ρ does not exist; `used` counts the others.
    """
    from scipy.stats import rankdata, spearmanr  # loads for half a second; a table does without

    points = points[np.isfinite(points[[predictor, outcome]]).all(axis=1)].reset_index(drop=True)
    x, y = points[predictor].to_numpy(), points[outcome].to_numpy()
    members = list(points.groupby(["data", "domain"], sort=True).indices.values())
    if not _varies(x, y):
        nan = float("nan")
        return Correlation(nan, nan, nan, len(points), len(members), 0, resamples)
    rho = float(spearmanr(x, y).statistic)
    if len(members) < ENOUGH:
        return Correlation(rho, np.nan, np.nan, len(points), len(members), 0, resamples)
    rng = np.random.default_rng(seed)
    rhos = []
    for drawn in rng.integers(len(members), size=(resamples, len(members))):
        rows = np.concatenate([members[number] for number in drawn])
        if _varies(x[rows], y[rows]):
            ranks = rankdata(np.stack([x[rows], y[rows]]), axis=1)
            rhos.append(np.corrcoef(ranks)[0, 1])
    low, high = np.quantile(rhos, [0.025, 0.975])
    return Correlation(
        rho, float(low), float(high), len(points), len(members), len(rhos), resamples
    )


def _varies(x: np.ndarray, y: np.ndarray) -> bool:
    return len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0


def correlations(points: pd.DataFrame) -> dict[str, Correlation]:
    """{predictor of Δ: its correlation}: D·γ over all points first, then the variations."""
    results = {
        "D·γ, tested epoch": correlation(points),
        "D·γ, last epoch": correlation(points, "share_last"),
        "φ, tested epoch": correlation(points, "phi"),
    }
    if points.transfer_paired.notna().any():
        results["D·γ, with the paired Δ"] = correlation(points, "share", "transfer_paired")
    names = points.data.unique()
    if len(names) > 1:
        for name in names:
            results[f"D·γ, only {name}"] = correlation(points[points.data == name])
    return results
