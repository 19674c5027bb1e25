"""export.py: a bundle ranks as the run it was made from, without this project and its data."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import export
from src.baselines.decayed_counts import tick_of
from src.config.modes import BLEND
from src.dataset.store.folder import open_dataset
from src.evaluation.blend import BlendScorer, FeatureSource, blended
from src.evaluation.path_scores import path_scorers
from src.evaluation.queries import Queries
from src.evaluation.ranking import Plan
from src.evaluation.targets import Targets
from src.interfaces import Requests
from src.io.errors import UserError
from src.report.finished_runs import read_runs
from src.report.formatting import ALPHA, interval
from src.serving.bundle import open_bundle
from src.serving.bundle_files import opened_run, with_counts
from src.serving.export import chosen_formats
from src.statistics.comparison import compare
from src.statistics.holm import holm
from tests.support.command_runs import DOMAINS, ROOT, contents, failing, train
from tests.support.exported_lists import (
    CPU,
    largest_difference,
    own_lists,
    ragged_requests,
    standalone,
    write_requests,
)

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
RUNS = ("both", "separate", "both_at_once")
GRAPHS = [
    "pt2",
    pytest.param(
        "onnx",
        marks=pytest.mark.skipif(
            not HAS_ONNX, reason="needs pip install -r requirements-export.txt"
        ),
    ),
]


@pytest.fixture(scope="module")
def bundles(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, run in runs.items():
        export.main([str(run), f"--out={folder / name}", "--device=cpu"])
    return {name: folder / name for name in runs}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", RUNS)
def test_a_process_without_this_project_makes_the_lists_of_the_run(
    runs, bundles, name, graph, tmp_path
):
    exported = opened_run(runs[name], CPU)
    queries = ragged_requests(exported.dataset, np.arange(30))
    lengths = queries.ends - exported.dataset.offsets[queries.users]
    assert {0, 1} <= set(lengths)
    assert lengths.max() > exported.settings.max_len
    own = own_lists(exported, queries, 20)
    write_requests(exported.dataset, queries, tmp_path / "requests.npz")
    for found in standalone(bundles[name], graph, tmp_path / "requests.npz", (64, 1), tmp_path):
        assert largest_difference(own, found) < 1e-4


def requests_of(dataset, domain: int, now: int) -> Requests:
    """Of every user after all events, and of the first after none."""
    users = np.append(np.arange(dataset.users), 0)
    ends = np.append(dataset.offsets[1:], dataset.offsets[0])
    return Requests(users, ends, np.full(len(users), now) + 86_400 * np.arange(len(users)))


@pytest.mark.parametrize("name", RUNS)
def test_the_blend_of_a_bundle_scores_as_that_of_the_run(runs, bundles, name):
    exported, bundle = with_counts(opened_run(runs[name], CPU)), open_bundle(bundles[name])
    dataset, rows = exported.dataset, np.arange(exported.dataset.users + 1)
    weighed = blended(exported.count_models, exported.settings)
    for domain in range(len(DOMAINS)):
        requests = requests_of(dataset, domain, bundle.end)
        nothing = np.zeros_like(requests.users)
        targets = Targets(
            "now", requests.ends, requests.users, nothing, nothing + domain, requests.ends,
            requests.times,
        )  # fmt: skip
        plan = Plan(dataset, targets, ("full",), {})
        with torch.no_grad():
            paths = path_scorers(exported.ensemble, exported.settings, plan, rows)
            source = FeatureSource(plan, paths, weighed)
            expected = BlendScorer(exported.blend, source).of(rows).scores(rows, domain)
            actual = bundle.scores(dataset, requests, domain, BLEND)
            torch.testing.assert_close(
                actual(slice(None)), expected(slice(None)), atol=1e-4, rtol=0
            )


def test_the_blend_says_nothing_of_times_before_the_export(data, bundles, capsys):
    dataset, bundle = open_dataset(data), open_bundle(bundles["both"])
    requests = requests_of(dataset, 0, bundle.end - 1)
    line = failing(capsys, bundles["both"], lambda: bundle.scores(dataset, requests, 0, BLEND))
    assert "counts are as of its export" in line


def test_a_bundle_holds_no_user_and_names_its_items(data, runs, bundles):
    dataset, folder = open_dataset(data), bundles["both"]
    users = [user.encode() for user in dataset.user_ids.to_pylist()]
    for name, content in contents(folder).items():
        assert not any(user in content for user in users), name
    items = pq.read_table(folder / "items.parquet")
    assert items["item_id"].to_pylist() == dataset.item_ids.to_pylist()
    assert items["item"].to_pylist() == list(range(1, dataset.item_rows))
    assert items["events"].to_pylist() == np.bincount(dataset.items)[1:].tolist()
    domains = [DOMAINS[domain] for domain in dataset.item_domains[1:]]
    assert items["domain"].to_pylist() == domains
    assert len(np.load(folder / "item_vectors.npy")) == dataset.item_rows


def test_the_card_has_the_figures_of_the_run(runs, bundles):
    card = (bundles["both"] / "model_card.md").read_text()
    results = json.loads((runs["both"] / "results.json").read_text())["test"]["full"]
    for path in ("cross", "single", "blend"):
        for name in (*DOMAINS, "macro"):
            assert f"{results[path][name]['ndcg@10']:.4f} (" in card  # an interval follows


def test_the_card_judges_transfer_as_the_reports_do(runs, bundles):
    """The t intervals of `compare`, and a verdict only after Holm's correction."""
    card = (bundles["both"] / "model_card.md").read_text()
    (run,) = read_runs([runs["both"]])
    cross, single = (run.values("test", "full", path, "ndcg@10") for path in ("cross", "single"))
    numbers = cross.domain.map(DOMAINS.index).to_numpy()
    pairs = compare(cross.value, single.value, cross.user_id.to_numpy(), numbers, list(DOMAINS))
    corrected = holm([pairs[name].p for name in DOMAINS])
    for name, p in zip(DOMAINS, corrected, strict=True):
        (line,) = (line for line in card.splitlines() if line.startswith(f"- {name}: "))
        assert f"({interval(pairs[name].low, pairs[name].high)}; " in line
        assert ("no certain difference" in line) == (p >= ALPHA)


@pytest.mark.parametrize("file", ["item_vectors.npy", "model.pt2", "items.parquet"])
def test_a_changed_file_is_refused(bundles, file, tmp_path, capsys):
    folder = Path(shutil.copytree(bundles["both"], tmp_path / "bundle"))
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    assert file in failing(capsys, folder, lambda: open_bundle(folder))


def test_a_bundle_is_replaced_only_on_request_and_other_folders_never(
    runs, bundles, tmp_path, capsys
):
    folder = Path(shutil.copytree(bundles["separate"], tmp_path / "bundle"))
    command = [str(runs["separate"]), "--device=cpu", "--format", "pt2"]
    again = [*command, f"--out={folder}"]
    assert "--overwrite replaces it" in failing(capsys, tmp_path, lambda: export.main(again))
    export.main([*again, "--overwrite"])
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}
    assert open_bundle(folder).facts["graphs"] == ["model.pt2"]
    (folder / "serving.json").unlink()
    line = failing(capsys, tmp_path, lambda: export.main([*again, "--overwrite"]))
    assert "other files than an export" in line


def test_a_model_that_cannot_be_exported_is_refused(data, tmp_path, capsys):
    run = train(data, tmp_path / "runs", "gru", "--model=gru4rec", "--max_epochs=1")
    command = [str(run), f"--out={tmp_path / 'bundle'}", "--device=cpu"]
    line = failing(capsys, tmp_path, lambda: export.main(command))
    assert "--model gru4rec cannot be exported" in line


def test_a_graph_whose_packages_are_missing_is_refused_or_left_out(monkeypatch, capsys):
    monkeypatch.setattr(
        "src.serving.export.missing_packages", lambda name: ["onnx"] * (name == "onnx")
    )
    assert chosen_formats(()) == ["pt2"]
    assert "no model.onnx: onnx not installed" in capsys.readouterr().out
    with pytest.raises(UserError, match="requirements-export"):
        chosen_formats(("onnx",))


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_holds_no_path_of_the_machine_that_made_it(bundles, graph):
    content = (bundles["both"] / f"model.{graph}").read_bytes()
    assert b"embed" in content  # nothing is compressed
    assert str(ROOT).encode() not in content


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_takes_what_is_no_item_for_padding_and_answers_no_unknown_domain(bundles, graph):
    bundle = open_bundle(bundles["both"], graph)
    last = bundle.dataset.item_rows - 1
    rows = [[1, 0, 2], [1, -1, 2], [1, last + 1, 2], [0, 0, 0], [1, 2, last]]
    items = torch.tensor(rows)
    times = torch.arange(3).expand(5, 3).contiguous()
    domain, now = torch.tensor([0, 0, 0, 0, -1]), torch.full((5,), 10)
    found = bundle.graph({"items": items, "times": times, "domain": domain, "now": now})
    for hidden in found.values():
        assert torch.equal(hidden[0], hidden[1])
        assert torch.equal(hidden[0], hidden[2])
        assert hidden[3].isfinite().all()  # nothing but padding
        assert not torch.equal(hidden[0], hidden[3])
        assert hidden[4].isnan().all()


@pytest.mark.parametrize("name", RUNS)
def test_embeddings_make_the_lists_of_the_run(runs, name, tmp_path):
    exported = opened_run(runs[name], CPU)
    dataset = exported.dataset
    export.main([str(runs[name]), "--embeddings", f"--out={tmp_path / 'vectors'}", "--device=cpu"])
    items = pq.read_table(tmp_path / "vectors" / "item_embeddings.parquet").to_pandas()
    users = pq.read_table(tmp_path / "vectors" / "user_embeddings.parquet").to_pandas()
    vectors = np.stack(items.vector)
    everyone, count = np.arange(dataset.users), len(DOMAINS)
    now = int(dataset.times.max()) + tick_of(dataset)
    queries = Queries(
        np.repeat(everyone, count), np.repeat(dataset.offsets[1:], count),
        np.tile(np.arange(count), len(everyone)), np.full(len(everyone) * count, now),
    )  # fmt: skip
    ids = dataset.user_ids.to_pylist()
    keyed = users.set_index(["user_id", "path", "domain"]).vector
    assert len(keyed) == len(everyone) * count * len(exported.settings.paths)
    for path, lists in own_lists(exported, queries, 20).items():
        for user, domain, (best, scores) in zip(queries.users, queries.domains, lists, strict=True):
            query = keyed[ids[user], path, DOMAINS[domain]]
            np.testing.assert_allclose(vectors[best - 1] @ query, scores, atol=1e-5)
