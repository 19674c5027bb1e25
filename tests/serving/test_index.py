"""Lists from an index: what it finds, what it may not list, and what it cannot answer."""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch

import recommend
from src.io.errors import UserError
from src.serving import index as indexes
from src.serving.contexts import History
from src.serving.index import ItemIndex, build_indexes
from src.serving.lists import ListOptions, make_lists

KINDS = ("hnsw", "ivf")


@pytest.fixture(scope="session")
def faiss():
    return pytest.importorskip("faiss", reason="faiss is not installed (requirements-index.txt)")


def listed(run, history, **options) -> pd.DataFrame:
    blocks = make_lists(run, history, np.arange(history.users), ListOptions(**options))
    return pd.concat([block.table.to_pandas() for block in blocks], ignore_index=True)


@pytest.mark.parametrize("name", ["both", "separate"])
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_reads_everything_gives_the_exact_lists(
    faiss, opened, monkeypatch, kind, exclude_seen, name
):
    """Seen items are left out, users with many of them get full lists too."""
    monkeypatch.setattr(indexes, "IVF_SHARE", 1)
    run = opened[name][0]
    history = History(run.dataset)
    built, lines = build_indexes(run, history, np.arange(history.users), None, kind, 10)
    assert [line.split(" on ")[0].split()[-1] for line in lines] == ["1.000"] * len(built)
    for k in (1, 10, 1000):
        exact = listed(run, history, k=k, exclude_seen=exclude_seen)
        found = listed(run, history, k=k, exclude_seen=exclude_seen, indexes=built)
        keys = ["user_id", "domain", "rank", "path", "context_events"]
        pd.testing.assert_frame_equal(found[keys], exact[keys])
        np.testing.assert_allclose(found.score, exact.score, rtol=1e-5, atol=1e-6)
        same = found.item_id == exact.item_id  # but for scores that tie in float32
        assert same.mean() > 0.99


def test_a_poor_index_says_so(faiss, opened, monkeypatch):
    """Of two kinds of list, the items that both have."""
    run = opened["both"][0]
    history = History(run.dataset)
    search = ItemIndex.search

    def worst(self, contexts, requests, path, k):
        scores, columns = search(self, contexts, requests, path, 10**6)
        last = (columns >= 0).sum(1)[:, None] - 1 - np.arange(k)
        return np.take_along_axis(scores, last, 1), np.take_along_axis(columns, last, 1)

    monkeypatch.setattr(ItemIndex, "search", worst)
    _, lines = build_indexes(run, history, np.arange(history.users), (0,), "hnsw", 3)
    assert "recall@3 0.000 on" in lines[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_or_an_item_that_is_not_finite_is_an_error(faiss, opened, kind):
    run = opened["separate"][0]
    history = History(run.dataset)
    table = run.ensemble.models[0].item_table
    before = table.detach().clone()
    index = ItemIndex(run, 0, kind)
    try:
        with torch.no_grad():
            table.fill_(torch.nan)
        with pytest.raises(UserError, match="is not finite: the model has diverged"):
            listed(run, history, k=3, domains=(0,), indexes={0: index})
        with pytest.raises(UserError, match="an item vector of A is not finite"):
            ItemIndex(run, 0, kind)
    finally:
        with torch.no_grad():
            table.copy_(before)


def test_the_command_prints_the_recall(faiss, exported, tmp_path, capsys):
    """Of a run, and of a bundle with the events of a user."""
    events = tmp_path / "events.csv"
    run, bundle = exported["both"]
    users = ["--users", "g00001", "g00002"]
    for folder, given in ((run, users), (bundle, [f"--events={events}"])):
        lists = {}
        for kind in ("exact", "hnsw"):
            out = tmp_path / f"{kind}.csv"
            flags = [f"--run={folder}", f"--out={out}", f"--index={kind}", *given]
            recommend.main(flags)
            lists[kind] = pd.read_csv(out)
        assert "--index hnsw, A: recall@10 1.000 on" in capsys.readouterr().out
        assert (lists["exact"].item_id == lists["hnsw"].item_id).mean() > 0.99
        row = lists["exact"].iloc[0]
        events.write_text(
            f"user_id,item_id,domain,unix_time\nnew,{row.item_id},{row.domain},1701388800\n"
        )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--serve_path=blend"], "--index hnsw needs --serve_path cross or single"),
        (["--at=test"], "--at needs --index exact, not hnsw"),
        (["--candidates=items.txt"], "--candidates needs --index exact, not hnsw"),
        ([], "--index hnsw needs faiss: pip install -r requirements-index.txt"),
    ],
)
def test_what_an_index_cannot_answer(exported, tmp_path, monkeypatch, flags, said):
    real = importlib.import_module

    def without(name, *rest):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    out = tmp_path / "top.csv"
    with pytest.raises(UserError, match=said):
        recommend.main([f"--run={exported['both'][0]}", f"--out={out}", "--index=hnsw", *flags])
    assert not out.exists()
