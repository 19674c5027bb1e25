"""What a recommender, a count model and a loss weighting must provide.

Trainer, checkpoints, warm start, memory, ranking, serving and the report know them through this
page and the tables of names (src/config/names.py) alone. Symbols: B users, N targets of a batch in
its canonical order (src/dataset/batching), D domains, V items, H hidden size. A *path* is a way to
rank, `cross` or `single` (src/config/modes.py); its targets' losses are those of one view.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

# (columns) -> scores [rows, columns] of a block of rows, the same however often they are asked for.
# The columns are a slice, or their numbers, among which one may stand more than once.
Scores = Callable[[slice | Tensor], Tensor]
# (columns) -> the values [rows, columns] float32 of each feature, of the same rows
Features = Callable[[slice | Tensor], list[Tensor]]


class StepLosses(NamedTuple):
    """What a recommender makes of a batch, in nats."""

    objective: Tensor  # scalar Σ coefficient · loss over all targets and paths, with its gradient
    by_path: dict[str, Tensor]  # {path: [N]} the loss of each target, values without a gradient
    auxiliary: dict[str, Tensor]  # {term: scalar} further terms of the objective, with gradients
    shown: dict[str, Tensor]  # {metric: scalar} what metrics.csv says of these terms


class Recommender(Protocol):
    """A model that is trained: an nn.Module.

    Which of its paths a run trains, and whether each domain has a model of its own, is the run's
    mode; the modes that a model has stand beside its name in the table. A nested dataclass
    `Settings`, if there is one, holds the model's own settings, whose names begin with the model's.
    """

    item_table: nn.Parameter  # [V + 1, H]; ⟨query, row⟩ is an item's score, row 0 is padding
    item_starts: list[int]  # [D + 1]; items of domain d are rows item_starts[d] … [d + 1] − 1
    auxiliary_weights: dict[str, float]  # {term: λ} of StepLosses.auxiliary
    # What `queries` reads of a batch beside which targets are the last ones, so that it can be
    # exported (src/serving/plain_forward.py): "view", the path's view; "views", both of them and
    # how many targets each domain has; None, anything else.
    queries_read: ClassVar[str | None]

    def __init__(self, settings: Any, item_starts: list[int]) -> None:
        """Fresh weights, a function of the settings (its seed among them) and the catalogue."""

    def __call__(
        self,
        batch: Any,
        coefficients: dict[str, Tensor] | None = None,
        gather: Callable[[Tensor], list[Tensor]] | None = None,
    ) -> StepLosses:
        """The losses of a Batch on every path.

        `coefficients` {path: [N]} are what the objective multiplies the targets' losses by; 1
        without them. They come in because a softmax over a catalogue makes its gradient along with
        its value. `gather` brings the rows of all processes together (`Process.gather_groups`).
        """

    def queries(self, batch: Any, path: str) -> Tensor:
        """[B, H] what ranks the next item of each user, in the domain of the user's last target."""

    def reads_domain(self, path: str) -> bool:
        """Whether a query depends on the domain that is asked for, not on the events alone."""

    def rows_of(self, name: str) -> str:
        """What the rows of a parameter or buffer stand for, so that a new run can start from it:
        `items`, `domains`, or nothing of the data (`whole`)."""

    @staticmethod
    def activation_bytes(settings: Any, tile: float) -> float:
        """Bytes that a target holds when the backward pass begins, about, for the line about
        memory; `tile` is the number of slots that a target attends to."""


class Requests(NamedTuple):
    """n questions to a count model: what does a user take next?"""

    users: np.ndarray  # [n]
    ends: np.ndarray  # [n] where the events that are known end: flat, exclusive
    times: np.ndarray  # [n] of the questions, in seconds since 1970
    domains: np.ndarray | None = None  # [n] the only domain that each asks for; None: any

    def rows(self, rows: np.ndarray | slice) -> "Requests":
        """The requests of these rows."""
        domains = None if self.domains is None else self.domains[rows]
        return Requests(self.users[rows], self.ends[rows], self.times[rows], domains)


class CountModel(Protocol):
    """A model that is counted, not trained."""

    feature_names: ClassVar[tuple[str, ...]]  # of what it contributes to a blend

    @classmethod
    def fit(cls, dataset: Any) -> "CountModel":
        """Count the training events of a dataset; a model of counts over time may count all events
        of a temporal split, where each request names its time."""

    def read(self, requests: Requests) -> "CountScores":
        """The scores for n requests, whose events are read once, whatever domains are ranked."""

    def to_date(self) -> "CountModel":
        """The same model for serving: a model of counts over time also counts what was held out to
        validate and test; another one is returned as it is."""

    def with_contexts(self, contexts: Any) -> "CountModel":
        """The same counts for the users of another dataset with the same catalogue: requests then
        name its users and events."""


class CountScores(Protocol):
    """What a count model answers to n requests; `rows` are those of them that are asked for."""

    def scores(self, rows: np.ndarray, domain: int) -> Scores:
        """Scores of a domain's items."""

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """[n, N] scores of single items [n, N], of any domain, where each request asks for the
        domain in `domains` [n]."""

    def features(self, rows: np.ndarray, domain: int) -> Features:
        """What a blend (src/evaluation/blend.py) weighs, of a domain's items: terms of a logit, so
        counts as logarithms."""


class LossWeighting(Protocol):
    """Weights of the domains in the loss of the paths that are weighted.

    Built from the run's settings and the gap (src/objective/lc_ntg.py). A nested dataclass
    `Settings` works as in a Recommender. What it declares to need, it is given:
    """

    needs_both_views: ClassVar[bool]  # a run with one view then has uniform weights
    needs_losses: ClassVar[bool]  # `update` after each step
    needs_losses_after: ClassVar[bool]  # then `update_after`, at the price of a forward pass
    held_out: ClassVar[float]  # share of the training events that it needs held out
    on_validation: ClassVar[bool]  # held out are the validation targets; then `held_out` is 0
    coalition_targets: ClassVar[int]  # sampled per domain for `update_coalitions`; 0: not called
    per_domain_gradients: ClassVar[bool]  # one forward and backward pass per domain, `combine`d

    def weights(self) -> Tensor:
        """[D] w_d of the coming step, from what the steps before left; mean 1 by convention."""

    def update(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        """After a step: the mean loss of each domain {path: [D]} in nats and its targets [D], over
        all batches and processes; the mean of a domain without a target is NaN."""

    def update_after(self, losses: dict[str, Tensor], counts: Tensor) -> None:
        """After `update`: the same of the same targets and dropout masks under the weights that the
        step has led to."""

    def end_epoch(self) -> None:
        """After the last step of an epoch, and after all other updates."""

    def update_held_out(self, losses: dict[str, Tensor], error: Tensor, counts: Tensor) -> None:
        """After an epoch, where `held_out` is not 0 or with `on_validation`: the same of the
        targets that are held out, from the steps of the epoch or from its validation, and the
        standard error [D] of the mean difference between the paths
        (`EpochStatistics.held_out_means`). No gradient comes from these targets."""

    def update_coalitions(self, losses: Tensor) -> None:
        """After an epoch, at the price of 2^D forward passes of a sample of its targets: their mean
        loss [2^D, D] by domain, NaN without a target, where the contexts keep only the events of a
        set of domains: in row s of those d with bit d of s."""

    def combine(self, gradients: Tensor) -> Tensor:
        """[D, P] one gradient per domain -> [P] the gradient that is applied, where they are asked
        for."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that must survive a resume; every tensor has one row per domain."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
