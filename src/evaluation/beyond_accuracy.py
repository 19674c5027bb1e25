"""Beyond accuracy: how much of the catalogue is recommended, and how popular that part is."""

from collections.abc import Collection

import numpy as np

TOP = 10  # items of a recommendation list


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
