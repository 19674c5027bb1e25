"""Counting ranks: ties are seen, faults stop, candidates are the only rivals."""

import numpy as np
import pytest
import torch

from src.evaluation.metrics import target_metrics
from src.evaluation.ranks import NonFiniteScore, count_better_tied, count_in_candidates

SCORES = torch.tensor([[0.1, 0.5, 0.5, 0.9], [2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 0.0, -1.0]])


def test_better_and_tied_are_counted_over_all_columns():
    better, tied = count_better_tied(SCORES, torch.tensor([1, 3, 0]))
    assert better.tolist() == [1, 0, 0]
    assert tied.tolist() == [2, 4, 1]
    assert better.dtype == tied.dtype == torch.int64


def test_chunks_of_rows_count_the_same_as_all_rows_at_once():
    scores = torch.randint(0, 5, (37, 23), generator=torch.manual_seed(0)).float()
    targets = torch.arange(37) % 23
    whole = count_better_tied(scores, targets)
    parts = [
        count_better_tied(some, rows)
        for some, rows in zip(scores.split(8), targets.split(8), strict=True)
    ]
    for counted, chunks in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(counted, torch.cat(chunks))


def test_only_the_drawn_candidates_and_the_target_are_ranked():
    candidates = torch.tensor([[2, 0], [0, -1], [1, 3]])  # -1: the domain has no more
    better, tied = count_in_candidates(SCORES, torch.tensor([1, 3, 2]), candidates)
    assert better.tolist() == [0, 0, 1]
    assert tied.tolist() == [2, 2, 1]


def test_all_others_as_candidates_rank_as_the_full_catalogue_does():
    scores = torch.randint(0, 6, (20, 12), generator=torch.manual_seed(1)).float()
    targets = torch.arange(20) % 12
    others = torch.stack([torch.tensor([c for c in range(12) if c != t]) for t in targets.tolist()])
    full, drawn = count_better_tied(scores, targets), count_in_candidates(scores, targets, others)
    assert torch.equal(full[0], drawn[0]) and torch.equal(full[1], drawn[1])


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [0, 2])  # the target's own score, and another's
def test_a_score_that_is_not_finite_stops_with_its_row_and_column(fault, column):
    scores = SCORES.clone()
    scores[1, column] = fault
    targets, candidates = torch.zeros(3, dtype=torch.int64), torch.tensor([[1, 2]] * 3)
    for count in (
        lambda: count_better_tied(scores, targets),
        lambda: count_in_candidates(scores, targets, candidates),
    ):
        with pytest.raises(NonFiniteScore, match=f"row 1, column {column}") as stopped:
            count()
        assert (stopped.value.row, stopped.value.column) == (1, column)


def test_large_finite_scores_are_no_fault():
    scores = torch.full((2, 3), torch.finfo(torch.float32).max)  # their sum overflows
    better, tied = count_better_tied(scores, torch.tensor([0, 2]))
    assert better.tolist() == [0, 0] and tied.tolist() == [3, 3]


def test_a_random_scorer_is_within_sampling_error_of_random_ranking():
    rows, columns = 4000, 50
    scores = torch.rand(rows, columns, generator=torch.manual_seed(2))
    better, tied = count_better_tied(scores, torch.arange(rows) % columns)
    found = target_metrics(better.numpy(), tied.numpy())
    for metric, expected in target_metrics(np.array([0]), np.array([columns])).items():
        error = found[metric].std() / rows**0.5
        assert abs(found[metric].mean() - expected[0]) < 4 * error, metric
