"""Which path serves each domain: decided on validation by a confidence bound."""

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Choice:
    """The path that serves a domain, and the evidence for it."""

    path: str  # of the model's two
    difference: float  # mean metric of the second path − the first on validation
    bound: float  # its one-sided lower bound; −inf with fewer than two users
    n: int  # validation targets


def serve_paths(
    values: dict[str, np.ndarray], users: np.ndarray, domains: np.ndarray, names: list[str]
) -> dict[str, Choice]:
    """The path of each domain: the first of the two, unless the second was clearly better on
    validation.

    The rule: with d the paired differences second − first of the domain's validation targets, the
    second path serves where the one-sided 95 % lower confidence bound of their mean, mean(d) −
    t₀.₉₅ · s, is above 0; s is the standard error clustered by user, t has users − 1 degrees of
    freedom. Where the two paths are equal, the second is chosen in at most one domain in twenty,
    and where data is scarce the model's main path serves.

    values: {path: [n]} the metric of each target on two paths. users, domains: [n] of the targets.
    """
    (main, first), (other, second) = values.items()
    choices = {}
    for domain, name in enumerate(names):
        rows = domains == domain
        difference = (second - first)[rows]
        mean = float(difference.mean()) if len(difference) else 0.0
        bound = mean - _margin(difference - mean, users[rows])
        path = other if bound > 0 else main
        choices[name] = Choice(path, mean, bound, len(difference))
    return choices


def _margin(residuals: np.ndarray, users: np.ndarray) -> float:
    """t · standard error, clustered by user, of the mean of [n] values with these residuals."""
    from scipy.special import stdtrit  # takes a fifth of a second to load; scipy.stats half a one

    _, owner = np.unique(users, return_inverse=True)
    count = int(owner.max(initial=-1)) + 1
    if count < 2:
        return np.inf
    sums = np.bincount(owner, residuals, minlength=count)
    error = np.sqrt((sums**2).sum() * count / (count - 1)) / len(residuals)
    return float(stdtrit(count - 1, CONFIDENCE) * error)
