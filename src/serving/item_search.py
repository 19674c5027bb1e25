"""Search items of a bundle by their ids, for a page where a person picks some."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.serving.bundle import Bundle
from src.serving.questions import MAX_ID, BadRequest

SHOWN = 20  # items at most


class ItemSearch:
    """The items of a bundle, by domain and by how often they occurred in training."""

    def __init__(self, bundle: Bundle):
        self.dataset = bundle.dataset

    def best(self, domain: str, text: str) -> list[dict[str, Any]]:
        """[{item_id, events}] of the items of a domain whose id has the text in it, in whatever
        case, those with the most events first. BadRequest for an unknown domain."""
        names = self.dataset.domain_names
        if domain not in names:
            raise BadRequest(f"'domain' must be one of {', '.join(names)}")
        if len(text) > MAX_ID or not text.isprintable():
            raise BadRequest(f"'text' must be at most {MAX_ID} printable characters")
        first, end = self.dataset.item_starts[names.index(domain) :][:2].tolist()
        ids = self.dataset.item_ids.slice(first - 1, end - first)
        matches = np.arange(len(ids))
        if text:
            matches = np.flatnonzero(pc.match_substring(ids, text, ignore_case=True).to_numpy())
        events = self.dataset.training_counts[first + matches]
        order = np.argsort(-events, kind="stable")[:SHOWN]
        listed = ids.take(pa.array(matches[order])).to_pylist()
        return [
            {"item_id": item_id, "events": count}
            for item_id, count in zip(listed, events[order].tolist(), strict=True)
        ]
