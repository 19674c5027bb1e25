"""Beyond accuracy: how much of the catalogue is ever recommended, and how popular that is."""

import numpy as np
import torch
from torch import Tensor

from src.evaluation.rank_counts import Scores, item_chunks, on_device

TOP = 10  # items of a recommendation list


@torch.no_grad()
def top_items(
    scores: Scores, items: int, k: int, device: torch.device, barred: tuple | None = None
) -> tuple[Tensor, Tensor]:
    """The k best of a domain's items for a block of rows, best first, a chunk at a time.

    `barred` are rows [P] and columns [P] that may not be recommended. Returns the scores and the
    columns, each [n, min(k, items)]; where nothing is left the score is −inf.
    """
    best: tuple[Tensor, Tensor] | None = None
    for chunk in item_chunks(items, device):
        some = scores(on_device(chunk.columns, device))[:, chunk.counted]
        first = chunk.start + chunk.counted.start
        if barred is not None:
            some = some.clone()
            inside = (barred[1] >= first) & (barred[1] < first + some.shape[1])
            some[barred[0][inside], barred[1][inside] - first] = -torch.inf
        values, columns = some.topk(min(k, some.shape[1]), dim=1)
        columns = columns + first
        if best is not None:
            values, columns = torch.cat([best[0], values], 1), torch.cat([best[1], columns], 1)
            values, order = values.topk(min(k, values.shape[1]), dim=1)
            columns = columns.gather(1, order)
        best = (values, columns)
    return best


def beyond_accuracy(
    recommended: np.ndarray, trained: np.ndarray, item_starts: np.ndarray, names: list[str]
) -> dict[str, dict[str, float]]:
    """{domain: {"coverage@10", "popularity@10"}} of the lists that a split's targets were given.

    Parameters
    ----------
    recommended: [V + 1] in how many lists of ten each item stands.
    trained: [V + 1] its training events.
    item_starts: [D + 1] the first item of each domain, and the end.

    Coverage is the share of the domain's items that stand in some list. Popularity is the mean
    number of training events of what was recommended, divided by that of what was chosen in
    training: 1 is as popular as the log, more is a bias to the popular. `macro` is the mean over
    the domains that have lists; a domain without them has no entries.
    """
    found = {}
    for domain, name in enumerate(names):
        own = slice(int(item_starts[domain]), int(item_starts[domain + 1]))
        lists, events = recommended[own].astype(float), trained[own].astype(float)
        if not lists.sum() or not events.sum():
            found[name] = {}
            continue
        mean_recommended = (lists * events).sum() / lists.sum()
        mean_chosen = (events * events).sum() / events.sum()
        found[name] = {
            f"coverage@{TOP}": float((lists > 0).mean()),
            f"popularity@{TOP}": float(mean_recommended / mean_chosen),
        }
    present = [values for values in found.values() if values]
    macro = {
        key: float(np.mean([values[key] for values in present]))
        for key in (present[0] if present else ())
    }
    return found | {"macro": macro}
