"""Targets that are their own only candidate are counted, and said."""

import numpy as np
import pytest

from src.evaluation.path_scores import PathScores
from src.evaluation.protocols import Ranks
from src.evaluation.targets import Targets
from src.runs.evaluate import SplitScores, lone_targets

LONE = {  # candidates by (split, protocol) of three targets each, the lines
    "none": ({("valid", "full"): [9, 2, 5], ("test", "full"): [9, 2, 5]}, []),
    "one of the test": ({("test", "full-unseen"): [1, 2, 5]}, ["test … full-unseen 1"]),
    "both splits": (
        {("valid", "full-unseen"): [1, 1, 5], ("test", "full-unseen"): [1, 4, 5]},
        ["valid … full-unseen 2", "test … full-unseen 1"],
    ),
    "two protocols": (
        {("test", "full"): [3, 2, 2], ("test", "sampled-unseen"): [1, 2, 2],
         ("test", "full-unseen"): [1, 1, 1]},
        ["test … sampled-unseen 1, full-unseen 3"],
    ),
    "a domain of one item": ({("test", "full"): [1, 7, 7]}, ["test … full 1"]),
    "strict contexts": (
        {("test", "full-unseen"): [1, 2, 2], ("test", "full-unseen-strict"): [1, 1, 2]},
        ["test … full-unseen 1, full-unseen-strict 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", LONE)
def test_targets_that_are_their_only_candidate_are_counted(form):
    candidates, expected = LONE[form]
    splits = []
    for (name, protocol), counts in candidates.items():
        none = np.zeros(3, dtype=np.int64)
        targets = Targets(name, *[none] * 6)
        ranks = Ranks(none, none + 1, np.array(counts))
        splits.append(SplitScores(targets, {"cross": PathScores({protocol: ranks}, {})}, False))
    assert list(lone_targets(splits)) == [
        f"{name} targets without another candidate, of 3 (every model ranks them first): {counts}"
        for name, counts in (line.split(" … ") for line in expected)
    ]
