"""Counting ranks: ties are seen, faults stop, only candidates are rivals, chunks do not show."""

import numpy as np
import pytest
import torch

from src.evaluation import rank_counts as ranks
from src.evaluation.metrics import target_metrics
from src.evaluation.rank_counts import (
    NonFiniteScore,
    Part,
    Reads,
    check_finite,
    count_ranks,
    item_chunks,
    no_reads,
)

CPU = torch.device("cpu")
SCORES = torch.tensor([[0.1, 0.5, 0.5, 0.9], [2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 0.0, -1.0]])


def part_of(scores, candidates=None, number=0):
    """A table of scores as a part; the candidates [n, N], −1 for none, are those of one set."""
    reads = no_reads()
    if candidates is not None:
        row, place = np.nonzero(candidates >= 0)
        wanted = (row, candidates[row, place], np.full(len(row), number))
        reads = Reads(*(values.astype(np.int32) for values in wanted))
    return Part(lambda columns: scores[:, columns], scores.shape[1], reads)


def counted(scores, targets, candidates=None):
    """The counts of a table of scores, of all columns and of the candidates with the target, as
    (better, tied)."""
    drawn = None if candidates is None else np.asarray(candidates)
    sets = 0 if candidates is None else 1
    found = count_ranks([part_of(scores, drawn)], np.asarray(targets), sets, CPU)
    assert not found.other_domains.better.any() and not found.other_domains.tied.any()
    full = (found.domain.better, found.domain.tied)
    return full, (found.sets.better[0], found.sets.tied[0] + 1) if sets else None


def by_hand(scores, targets, candidates=None):
    """The same by comparing one number with another, a row at a time."""
    better, tied = [], []
    for row, target in enumerate(targets):
        rivals = range(scores.shape[1]) if candidates is None else [*candidates[row], target]
        values = [float(scores[row, column]) for column in rivals if column >= 0]
        better.append(sum(value > float(scores[row, target]) for value in values))
        tied.append(sum(value == float(scores[row, target]) for value in values))
    return better, tied


def tied_scores(rows, columns, seed=0):
    """Whole numbers from few, so that many scores are equal."""
    return torch.randint(-3, 4, (rows, columns), generator=torch.manual_seed(seed)).float()


@pytest.fixture(params=[5, 1024], ids=["many chunks", "one chunk"])
def side(request, monkeypatch):
    monkeypatch.setitem(ranks.SIDES, "cpu", request.param)
    return request.param


def test_better_and_tied_are_counted_over_all_columns():
    better, tied = counted(SCORES, [1, 3, 0])[0]
    assert better.tolist() == [1, 0, 0]
    assert tied.tolist() == [2, 4, 1]
    assert better.dtype == tied.dtype == np.int64


def test_only_the_drawn_candidates_and_the_target_are_ranked():
    candidates = [[2, 0], [0, -1], [1, 3]]  # -1: the domain has no more
    better, tied = counted(SCORES, [1, 3, 2], candidates)[1]
    assert better.tolist() == [0, 0, 1]
    assert tied.tolist() == [2, 2, 1]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [1, 3, 17, 40, 41, 45, 46, 63])
@pytest.mark.parametrize("rows", [1, 4, 12])
def test_counts_are_those_of_comparing_one_by_one(rows, columns, kind, side):
    scores = tied_scores(rows, columns)
    rng = np.random.default_rng(rows)
    targets = rng.integers(0, columns, rows)
    candidates = rng.integers(-1, columns, (rows, 6))
    candidates[candidates == targets[:, None]] = -1
    full, drawn = counted(scores.to(kind), targets, candidates)
    for (better, tied), expected in zip(
        (full, drawn), (by_hand(scores, targets), by_hand(scores, targets, candidates)), strict=True
    ):
        assert better.tolist() == expected[0] and tied.tolist() == expected[1]


def test_parts_are_counted_apart_and_sets_across_them(side):
    """The items of other domains, and sets that hold some of each."""
    rows, widths, sets = 13, (47, 3, 60), 2
    scores = [tied_scores(rows, width, seed) for seed, width in enumerate(widths)]
    targets = np.random.default_rng(1).integers(0, widths[0], rows)
    rng, parts = np.random.default_rng(2), []
    better, tied = np.zeros((sets, rows), int), np.zeros((sets, rows), int)
    for table, width in zip(scores, widths, strict=True):
        wanted = rng.integers(0, (rows, width, sets), (90, 3)).astype(np.int32)  # some twice
        for row, column, number in wanted.tolist():
            own = scores[0][row, targets[row]]
            better[number, row] += int(table[row, column] > own)
            tied[number, row] += int(table[row, column] == own)
        reads = Reads(*wanted.T)
        parts.append(Part(lambda columns, table=table: table[:, columns], width, reads))
    actual = count_ranks(parts, targets, sets, CPU)
    whole = by_hand(torch.cat(scores, 1), targets)
    own = by_hand(scores[0], targets)
    assert (actual.domain.better.tolist(), actual.domain.tied.tolist()) == own
    assert (actual.domain.better + actual.other_domains.better).tolist() == whole[0]
    assert (actual.domain.tied + actual.other_domains.tied).tolist() == whole[1]
    assert (actual.sets.better == better).all() and (actual.sets.tied == tied).all()


@pytest.mark.parametrize(("rows", "columns"), [(12, 63), (3, 7), (60, 41)])
def test_several_scorings_of_the_same_targets_are_counted_as_each_by_itself(rows, columns, side):
    scores = [tied_scores(rows, columns, seed) for seed in range(3)]
    rng = np.random.default_rng(rows)
    targets = rng.integers(0, columns, rows)
    candidates = rng.integers(-1, columns, (rows, 6))
    candidates[candidates == targets[:, None]] = -1
    reads, calls = part_of(scores[0], candidates).reads, []

    def score(asked):
        calls.append(asked)
        return torch.cat(scores)[:, asked]

    actual = count_ranks([Part(score, columns, reads)], targets, 1, CPU, scorings=3)
    chunks = len(item_chunks(columns, CPU))
    assert len(calls) == chunks + (chunks > 1)  # every target's score was guessed right
    expected = [by_hand(one, targets) for one in scores]
    assert actual.domain.better.tolist() == [n for better, _ in expected for n in better]
    assert actual.domain.tied.tolist() == [n for _, tied in expected for n in tied]
    better, tied = by_hand(scores[0], targets, candidates)  # the candidates are of the first
    assert actual.sets.better[0, :rows].tolist() == better
    assert (actual.sets.tied[0, :rows] + 1).tolist() == tied
    assert not actual.sets.better[0, rows:].any()


def test_all_others_as_candidates_rank_as_the_full_catalogue_does(side):
    scores, targets = tied_scores(20, 52), np.arange(20) % 52
    others = [[c for c in range(52) if c != t] for t in targets.tolist()]
    full, drawn = counted(scores, targets, others)
    assert (full[0] == drawn[0]).all() and (full[1] == drawn[1]).all()


@pytest.mark.parametrize("items", [1, 15, 16, 8192, 8193, 14_228, 100_000, 1_000_000])
def test_every_item_is_counted_in_one_chunk_and_all_chunks_have_one_width(items):
    chunks, seen = item_chunks(items, CPU), []
    for chunk in chunks:
        columns = chunk.columns
        if isinstance(columns, slice):
            assert chunk.start == columns.start and 0 <= columns.start < columns.stop <= items
            columns = np.arange(columns.start, columns.stop)
        seen.append(columns[chunk.counted])
        assert len(columns) == len(np.arange(items)[chunks[0].columns])
    assert np.concatenate(seen).tolist() == list(range(items))
    scored = sum(len(np.arange(items)[chunk.columns]) for chunk in chunks)
    assert scored <= 1.01 * items + 64 * len(chunks)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", [0, 2, 4, 5, 9, 44, 45, 46])  # of 47; 0: the target's own
def test_a_score_that_is_not_finite_stops_with_its_row_and_column(fault, column, side):
    scores = tied_scores(7, 47)
    scores[3, column] = fault
    scores[3, column + 1 :: 5] = fault  # the first by row and then by column is named
    scores[5, 0] = fault
    for candidates in (None, np.full((7, 2), 1)):
        with pytest.raises(NonFiniteScore, match=f"row 3, column {column} is") as stopped:
            counted(scores, np.zeros(7, dtype=np.int64), candidates)
        assert (stopped.value.row, stopped.value.column) == (3, column)
    with pytest.raises(NonFiniteScore, match=f"row 3, column {column} is"):
        check_finite(scores)


def test_a_fault_among_the_items_of_another_part_is_named_with_the_part(side):
    first, second, third = (tied_scores(7, width) for width in (47, 20, 33))
    second[4, 11] = float("nan")
    third[0, 0] = float("nan")
    with pytest.raises(NonFiniteScore, match="row 4, column 11 is") as stopped:
        count_ranks([part_of(s) for s in (first, second, third)], np.arange(7), 0, CPU)
    assert stopped.value.part == 1


def test_a_table_of_nan_is_no_good_rank(side):
    with pytest.raises(NonFiniteScore, match="row 0, column 0"):
        counted(torch.full((2, 50), float("nan")), np.array([3, 4]))


def test_large_finite_scores_are_no_fault(side):
    scores = torch.full((2, 50), torch.finfo(torch.float32).max)  # their sum overflows
    better, tied = counted(scores, [0, 49])[0]
    assert better.tolist() == [0, 0] and tied.tolist() == [50, 50]


@pytest.mark.parametrize("slip", [-1e-6, 1e-6])
def test_a_target_is_compared_by_the_score_that_stands_among_the_others(slip, monkeypatch):
    """The first guess of its score may come from another kernel, and differ in the last bits."""
    monkeypatch.setitem(ranks.SIDES, "cpu", 5)
    scores, elsewhere, targets = tied_scores(6, 60), tied_scores(6, 30, 1), np.arange(6) * 11

    def guessed_otherwise(columns):
        return scores[:, columns] + (0.0 if isinstance(columns, slice) else slip)

    others = np.array([[c for c in range(60) if c != t] for t in targets])
    reads = part_of(scores, others).reads
    actual = count_ranks(
        [Part(guessed_otherwise, 60, reads), part_of(elsewhere, np.tile(np.arange(30), (6, 1)), 1)],
        targets, 2, CPU,
    )  # fmt: skip
    expected = by_hand(scores, targets)
    assert (actual.domain.better.tolist(), actual.domain.tied.tolist()) == expected
    assert (actual.sets.better[0].tolist(), (actual.sets.tied[0] + 1).tolist()) == expected
    whole = by_hand(torch.cat([scores, elsewhere], 1), targets)
    assert (actual.domain.better + actual.other_domains.better).tolist() == whole[0]
    assert (actual.domain.tied + actual.other_domains.tied).tolist() == whole[1]
    assert (actual.sets.better[1] == actual.other_domains.better).all()


def test_scores_that_change_while_they_are_counted_are_refused(monkeypatch):
    monkeypatch.setitem(ranks.SIDES, "cpu", 5)
    part = Part(lambda columns: torch.rand(6, 60)[:, columns], 60, no_reads())
    with pytest.raises(RuntimeError, match="differ"):
        count_ranks([part], np.arange(6), 0, CPU)


def test_a_random_scorer_is_within_sampling_error_of_random_ranking(side):
    rows, columns = 4000, 50
    scores = torch.rand(rows, columns, generator=torch.manual_seed(2))
    better, tied = counted(scores, np.arange(rows) % columns)[0]
    metrics = target_metrics(better, tied)
    for metric, expected in target_metrics(np.array([0]), np.array([columns])).items():
        error = metrics[metric].std() / rows**0.5
        assert abs(metrics[metric].mean() - expected[0]) < 4 * error, metric
