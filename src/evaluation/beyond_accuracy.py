"""Beyond accuracy: how much of the catalogue is recommended, and how popular that part is."""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from src.evaluation.rank_counts import Scores, item_chunks, on_device

TOP = 10  # items of a recommendation list


@torch.no_grad()
def top_items(
    scores: Scores,
    items: int,
    k: int,
    device: torch.device,
    excluded: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best of a domain's items for a block of rows, best first, computed chunk by chunk; of
    equal scores the lower column comes first, on every device.

    `excluded` are rows [P] and columns [P] that are not recommended. Returns the scores and the
    columns, each [n, min(k, items)]; where nothing is left the score is −inf.
    """
    best: tuple[Tensor, Tensor] | None = None
    for chunk in item_chunks(items, device):
        chunk_scores = scores(on_device(chunk.columns, device))[:, chunk.counted]
        first, width = chunk.start + chunk.counted.start, chunk_scores.shape[1]
        if excluded is not None:
            rows, columns = excluded
            inside = (columns >= first) & (columns < first + width)
            chunk_scores = chunk_scores.clone()
            chunk_scores[rows[inside], columns[inside] - first] = -torch.inf
        values, columns = _top_columns(chunk_scores, min(k, width))
        columns = columns + first
        if best is not None:  # its columns are lower: a stable sort keeps them before their equals
            values, columns = torch.cat([best[0], values], 1), torch.cat([best[1], columns], 1)
            values, order = values.sort(dim=1, descending=True, stable=True)
            values, columns = values[:, :k], columns.gather(1, order)[:, :k]
        best = (values, columns)
    assert best is not None  # a domain has an item
    return best


def _top_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row of scores [n, C] and their columns, each [n, k]; of equal scores the
    lower column. torch's topk takes any of them."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        cut = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]  # rows with equals beyond the list
        values, columns = values[:, :k], columns[:, :k]
        if len(cut):
            rows, least = scores[cut], values[cut, -1:]
            above, level = rows > least, rows == least
            free = k - above.sum(1, keepdim=True)  # places left for those level with the last
            listed = above | (level & (level.cumsum(1, dtype=torch.int32) <= free))
            columns[cut] = listed.nonzero()[:, 1].view(-1, k)
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def beyond_accuracy(
    recommended: np.ndarray,
    trained: np.ndarray,
    item_starts: np.ndarray,
    names: list[str],
    left_out: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """{domain: {"coverage@10", "popularity@10"}} of the lists recommended for a split's targets.

    Parameters
    ----------
    recommended: [V + 1] how many lists of ten contain each item.
    trained: [V + 1] its training events.
    item_starts: [D + 1] the first item of each domain, and the end.
    left_out: the names of the domains that do not count in the macro mean.

    Coverage is the share of the domain's items that are in a list. Popularity is the mean number
    of training events of a recommended item, divided by that of an item in a training event: 1 is
    as popular as the log, more is a bias towards popular items. `macro` is the mean over the
    domains that have lists; a domain without them has no entries.
    """
    by_domain: dict[str, dict[str, float]] = {}
    for domain, name in enumerate(names):
        items = slice(int(item_starts[domain]), int(item_starts[domain + 1]))
        lists, events = recommended[items].astype(float), trained[items].astype(float)
        if not lists.sum() or not events.sum():
            by_domain[name] = {}
            continue
        mean_recommended = (lists * events).sum() / lists.sum()
        mean_chosen = (events * events).sum() / events.sum()
        by_domain[name] = {
            f"coverage@{TOP}": float((lists > 0).mean()),
            f"popularity@{TOP}": float(mean_recommended / mean_chosen),
        }
    present = [values for name, values in by_domain.items() if values and name not in left_out]
    macro = {
        key: float(np.mean([values[key] for values in present]))
        for key in (present[0] if present else ())
    }
    return by_domain | {"macro": macro}
