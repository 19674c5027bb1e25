"""The gap between the views on events that are not trained on, and what it advises."""

from typing import TYPE_CHECKING

from src.config.modes import CROSS, SINGLE

if TYPE_CHECKING:
    import pandas as pd

CERTAIN = 2  # standard errors of a domain's gap


def gaps_at(metrics: "pd.DataFrame", epoch: int) -> "pd.DataFrame":
    """`gap`, the single view's mean loss minus the cross view's, and its standard `error`, in nats,
    by domain; from the rows of metrics.csv, after an epoch. Empty where they were not measured."""
    rows = metrics[(metrics.split == "held_out") & (metrics.epoch == epoch)]
    losses = rows[rows.metric == "loss"].pivot(index="domain", columns="path", values="value")
    losses = losses.reindex(columns=[CROSS, SINGLE])
    error = rows[rows.metric == "gap_error"].set_index("domain").value
    return (losses[SINGLE] - losses[CROSS]).to_frame("gap").join(error.rename("error"))


def validation_at(metrics: "pd.DataFrame", epoch: int, metric: str, average: str) -> dict:
    """{path: value} of a metric on validation, its mean over domains (`macro`) or `users`; from the
    rows of metrics.csv, after an epoch."""
    rows = metrics[(metrics.split == "valid") & (metrics.epoch == epoch)]
    return dict(rows[(rows.metric == metric) & (rows.domain == average)].set_index("path").value)


def advice(gaps: "pd.DataFrame", validation: dict[str, float]) -> str:
    """What to compare with where the cross view has certainly the higher loss in more than half of
    the domains and ranks worse, which weights of mean 1 can't mend; empty elsewhere.

    gaps: those of `gaps_at`; validation: {path: the selecting metric} as of `validation_at`.
    """
    losers = (gaps.gap < -CERTAIN * gaps.error).sum()
    if losers <= len(gaps) / 2 or validation[CROSS] >= validation[SINGLE]:
        return ""
    return (
        f"in {losers} of {len(gaps)} domains the cross view has the higher loss on events that are "
        f"not trained on, by more than {CERTAIN} standard errors, and it ranks the validation "
        f"targets worse ({validation[CROSS]:.4f}, the single view {validation[SINGLE]:.4f}): the "
        "domains may not belong together; compare with --mode=sdsr"
    )
