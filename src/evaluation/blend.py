"""The blend: a run's paths and the count models in one score, with weights from validation.

The score of an item is Σ_f w_{d,f} · x_f: x_f are the centred scores of the model's paths and the
features of the count models (logarithms of counts), w_{d,f} the weights of the domain d. They
maximise the likelihood of the domain's validation targets in a softmax over its items (conditional
logit: McFadden, 1974) under a normal prior around the weights of all domains, so a domain with few
targets has these. No weight is learned from a test target.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from src.config.modes import CROSS, PATHS
from src.config.names import BLENDED_BY
from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.evaluation.rank_counts import FEWEST, columns_on_cpu, to_device
from src.evaluation.ranking import ModelScorer, Plan
from src.evaluation.targets import Targets, user_events
from src.interfaces import CountModel, CountScores, Features, Scores

# A domain's weights are fitted on so many targets, among so many items, of a larger one a sample:
FIT_TARGETS, FIT_ITEMS = 1000, 4096  # 16 MiB for each feature
FIT_QUERIES = 2**16  # of all domains together, so that there are fewer of each where they are many
PAIR_ITEMS = 1024  # items of a domain that are scored together where single ones are asked for
ROWS = 64  # targets whose second derivatives are computed at a time
PRIOR = 1.0  # standard deviation of a weight around that of all domains, before the data
STEPS, CLOSE = 30, 1e-7  # Newton steps at most, and the improvement per target that ends them
SMALLEST_STEP = 1e-4  # of a Newton step, halved as long as it makes the fit worse
# {part of a blend: its count models}, of which results say what they are worth
PARTS = {"trend": BLENDED_BY["trend"], "habit": BLENDED_BY["repeat"]}


@dataclass(frozen=True)
class Blend:
    """The features of a run, and their weights in each domain."""

    names: tuple[str, ...]
    weights: np.ndarray  # [D, F] float64
    # {what they lack: other weights [D, F]}, by which targets are ranked too, under `full`
    variants: dict[str, np.ndarray] = field(default_factory=dict)

    def by_domain(self, domain_names: list[str]) -> dict[str, dict[str, float]]:
        """{domain: {feature: weight}}, as in blend.json."""
        return {
            domain: dict(zip(self.names, weights, strict=True))
            for domain, weights in zip(domain_names, self.weights.tolist(), strict=True)
        }


def blended(count_models: dict[str, CountModel], settings: Settings) -> dict[str, CountModel]:
    """The count models that a run's blend weighs: those that no setting leaves out."""
    left_out = {
        name for flag, names in BLENDED_BY.items() if not getattr(settings, flag) for name in names
    }
    return {name: model for name, model in count_models.items() if name not in left_out}


def feature_names(paths: tuple[str, ...], count_models: dict[str, CountModel]) -> tuple[str, ...]:
    """The features that a run's paths and count models give a blend, in order."""
    counted = (model.feature_names for model in count_models.values())
    return (*paths, *(name for names in counted for name in names))


def without_parts(blend: Blend, count_models: dict[str, CountModel]) -> Blend:
    """The blend of these count models, with a variant for each of its PARTS, whose weights are 0,
    and for both. Nothing is fitted again."""
    parts: dict[str, set[str]] = {}
    for part, models in PARTS.items():
        used = {name: count_models[name] for name in models if name in count_models}
        if used:
            parts[part] = set(feature_names((), used))
    if len(parts) > 1:
        parts[" and ".join(parts)] = set.union(*parts.values())
    variants = {
        part: np.where([name in features for name in blend.names], 0.0, blend.weights)
        for part, features in parts.items()
    }
    return replace(blend, variants=variants)


class FeatureSource:
    """All features of the targets of a plan, whose queries have been encoded.

    `paths` {path: scorer} are those of the run's model, the first one its main path.
    """

    def __init__(
        self, plan: Plan, paths: dict[str, ModelScorer], count_models: dict[str, CountModel]
    ):
        self.plan, self.paths, self.count_models = plan, paths, count_models
        self.names = feature_names(tuple(paths), count_models)

    def of(self, rows: np.ndarray) -> "BlockFeatures":
        """The features of the targets `rows`, whose events are read once."""
        dataset = self.plan.dataset
        requests = self.plan.targets.requests(rows, self.plan.own_domain)
        events, row = user_events(dataset, requests.users, requests.ends)
        knows = np.zeros((len(rows), len(dataset.domain_names)), dtype=bool)
        knows[row, dataset.domains[events]] = True
        paths = {path: scorer.of(rows) for path, scorer in self.paths.items()}
        counted = [model.read(requests) for model in self.count_models.values()]
        return BlockFeatures(dataset, paths, counted, knows, self.plan.device)


@dataclass(frozen=True)
class BlockFeatures:
    """The features of n targets."""

    dataset: Dataset
    paths: dict[str, ModelScorer]
    counted: list[CountScores]
    knows: np.ndarray  # [n, D] whether the context has an event of the domain
    device: torch.device

    def of(self, rows: np.ndarray, domain: int, asked: int | np.ndarray | None = None) -> Features:
        """The features of a domain's items for the targets at `rows` of the n, whose queries ask
        for the domain `asked` if they ask for another one, or for that of each [rows]."""
        asked = domain if asked is None else asked
        counts = self.dataset.training_counts[self.dataset.domain_items(domain)]
        trained = to_device(counts > 0, self.device)
        scores = {
            path: scorer.centred_scores(rows, domain, trained, asked)
            for path, scorer in self.paths.items()
        }
        counted = [of_model.features(rows, domain) for of_model in self.counted]
        knows = to_device(self.knows[rows, asked][:, None], self.device)

        def values(columns: slice | Tensor) -> list[Tensor]:
            of_paths = {path: of_path(columns).float() for path, of_path in scores.items()}
            for path in of_paths:
                if PATHS[path].single_domain and CROSS in of_paths:
                    # without an event of the domain the view is empty: the cross view stands in
                    of_paths[path] = torch.where(knows, of_paths[path], of_paths[CROSS])
            features = list(of_paths.values())
            for of_model in counted:
                features += [value.to(self.device) for value in of_model(columns_on_cpu(columns))]
            return features

        return values


class BlendScorer:
    """Scores by a blend; a Scorer (src/evaluation/ranking.py)."""

    def __init__(self, blend: Blend, source: FeatureSource):
        self.blend, self.source = blend, source

    def of(self, rows: np.ndarray) -> "BlendBlockScorer":
        return BlendBlockScorer(self.blend, self.source.of(rows))


@dataclass(frozen=True)
class BlendBlockScorer:
    """Scores n targets by a blend; a VariantScorer."""

    blend: Blend
    features: BlockFeatures

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.blend.variants)

    def scores(
        self, rows: np.ndarray, domain: int, asked: int | np.ndarray | None = None
    ) -> Scores:
        return self._weighed([self.blend.weights], rows, domain, asked)

    def all_scores(self, rows: np.ndarray, domain: int) -> Scores:
        return self._weighed([self.blend.weights, *self.blend.variants.values()], rows, domain)

    def _weighed(
        self,
        weights: list[np.ndarray],
        rows: np.ndarray,
        domain: int,
        asked: int | np.ndarray | None = None,
    ) -> Scores:
        """Scores by each of the weights, one below the other, from features computed once."""
        features = self.features.of(rows, domain, asked)
        of_domain = [own[domain].tolist() for own in weights]

        def scores(columns: slice | Tensor) -> Tensor:
            values = features(columns)
            totals = values[0].new_empty(len(of_domain), *values[0].shape)
            for total, own in zip(totals, of_domain, strict=True):
                torch.mul(values[0], own[0], out=total)
                for weight, value in zip(own[1:], values[1:], strict=True):
                    if weight:
                        total.add_(value, alpha=weight)
            return totals.flatten(0, 1)

        return scores

    def pairs(self, domains: np.ndarray, items: np.ndarray) -> Tensor:
        """[n, N] scores of single items, of any domain, each by the weights of its domain."""
        values = np.zeros(items.shape, dtype=np.float32)
        dataset = self.features.dataset
        domain_of = dataset.item_domains[items]
        for domain in np.unique(domain_of).tolist():
            row, place = np.nonzero(domain_of == domain)
            asking, part = np.unique(row, return_inverse=True)
            column = items[row, place] - dataset.item_starts[domain]
            columns, column = np.unique(column, return_inverse=True)
            asking = np.resize(asking, max(len(asking), FEWEST))  # else equal items don't tie
            scores = self.scores(asking, domain, domains[asking])
            for chosen in np.array_split(np.arange(len(columns)), -(-len(columns) // PAIR_ITEMS)):
                some = np.resize(columns[chosen], max(len(chosen), FEWEST))
                chunk = scores(torch.from_numpy(some)).cpu().numpy()
                inside = np.flatnonzero((column >= chosen[0]) & (column <= chosen[-1]))
                cells = part[inside], column[inside] - chosen[0]
                values[row[inside], place[inside]] = chunk[cells]
        return torch.from_numpy(values).to(self.features.device)


def fit_targets(targets: Targets) -> np.ndarray:
    """The numbers of the targets that a blend is fitted on: of a domain with many, evenly spaced
    ones."""
    chosen, domains = [np.zeros(0, dtype=np.int64)], np.unique(targets.domains)
    for domain in domains:
        rows = np.flatnonzero(targets.domains == domain)
        most = min(FIT_TARGETS, FIT_QUERIES // len(domains))
        chosen.append(rows[:: -(-len(rows) // most)])
    return np.concatenate(chosen)


def fit_blend(source: FeatureSource, rows: np.ndarray, seed: int) -> Blend:
    """Fit the weights of every domain on the targets `rows` of the validation split
    (`fit_targets`).

    Each domain is fitted twice: around the main path alone, which gives the weights of all domains,
    each fit weighed by its information; then around these.
    """
    domain_of, count = source.plan.targets.domains[rows], len(source.names)
    centre = np.zeros(count)
    centre[0] = 1.0  # the main path alone
    precision = np.eye(count) / PRIOR**2

    def fit(domain: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = rows[domain_of == domain]
        if not len(chosen):
            return centre, np.zeros_like(precision)
        return _fit(*_table(source, chosen, domain, seed), centre, precision)

    domains = range(len(source.plan.dataset.domain_names))
    centre = mean_weights([fit(domain) for domain in domains], centre, precision)
    return Blend(source.names, np.stack([fit(domain)[0] for domain in domains]))


def mean_weights(
    fits: list[tuple[np.ndarray, np.ndarray]], centre: np.ndarray, precision: np.ndarray
) -> np.ndarray:
    """[F] the mean of the domains' weights [F], each with its information [F, F], and of `centre`
    with `precision`."""
    information = precision + sum(known for _, known in fits)
    total = precision @ centre + sum(known @ weights for weights, known in fits)
    return np.linalg.solve(information, total)


def _table(
    source: FeatureSource, rows: np.ndarray, domain: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The features [n, m, F] of m items, the target's column [n], and the logarithm of how often an
    item is in the sample [m].

    Of a large domain the m items are the targets, and others drawn in proportion to 1 + their
    training events: a sampled softmax whose expectation is that of the whole one.
    """
    dataset, targets = source.plan.dataset, source.plan.targets
    items = dataset.domain_items(domain)
    size, wanted = items.stop - items.start, targets.items[rows] - items.start
    share = np.ones(size)
    if size > FIT_ITEMS:
        counts = dataset.training_counts[items] + 1.0
        share = np.minimum(1.0, counts * (FIT_ITEMS / counts.sum()))
        share[wanted] = 1.0
    drawn = np.random.default_rng([seed, domain]).random(size) < share
    columns = np.flatnonzero(drawn)
    features = source.of(rows)
    table = torch.empty(len(rows), len(columns), len(source.names), device=source.plan.device)
    for start in range(0, len(rows), ROWS):  # else all features would be held twice
        part = np.arange(len(rows))[start : start + ROWS]
        values = features.of(part, domain)(torch.from_numpy(columns))
        torch.stack(values, dim=2, out=table[start : start + ROWS])
    target = torch.from_numpy(np.searchsorted(columns, wanted))
    return table, target.to(table.device), torch.from_numpy(np.log(share[columns])).to(table)


def _fit(
    table: Tensor, target: Tensor, log_share: Tensor, centre: np.ndarray, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The weights [F] of the largest posterior under a normal prior with this centre and precision,
    and the information [F, F] of the data there. Newton's method; steps that go too far are halved.
    """

    def penalised(weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, slope, curvature = _derivatives(table, target, log_share, weights)
        pull = precision @ (weights - centre)
        return value + 0.5 * (weights - centre) @ pull, slope + pull, curvature

    weights, (value, slope, curvature) = centre, penalised(centre)
    for _ in range(STEPS):
        step, size = np.linalg.solve(curvature + precision, slope), 1.0
        tried = penalised(weights - step)
        while tried[0] > value and size > SMALLEST_STEP:
            size /= 2
            tried = penalised(weights - size * step)
        if tried[0] > value:
            break
        gain = value - tried[0]
        weights, (value, slope, curvature) = weights - size * step, tried
        if gain < CLOSE * len(target):
            break
    return weights, curvature


def _derivatives(
    table: Tensor, target: Tensor, log_share: Tensor, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """−log likelihood of the targets, its gradient [F] and its second derivatives [F, F]."""
    parameters = torch.from_numpy(weights).to(table)
    count = len(weights)
    value, slope, curvature = 0.0, np.zeros(count), np.zeros((count, count))
    for part, column in _parts(table, target):
        logits = part @ parameters - log_share  # [n, m]
        log_share_of = logits.log_softmax(1)
        probability = log_share_of.exp()
        mean = (probability[:, None] @ part)[:, 0]  # [n, F]
        of_target = part[torch.arange(len(column), device=column.device), column]
        weighted = (part * probability[:, :, None]).flatten(0, 1)
        value -= float(log_share_of.gather(1, column[:, None]).double().sum())
        slope += (mean - of_target).double().sum(0).cpu().numpy()
        second = weighted.T @ part.flatten(0, 1) - mean.T @ mean
        curvature += second.double().cpu().numpy()
    return value, slope, curvature


def _parts(table: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(target), ROWS):
        yield table[start : start + ROWS], target[start : start + ROWS]
