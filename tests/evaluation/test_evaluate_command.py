"""main.py --evaluate: a finished run is scored again, without training, and only what is asked."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import main
import recommend
from experiments.blend_parts import open_run
from experiments.scoring import ndcg_on_test
from src.config.modes import BLEND
from src.config.names import AS_LISTED, COUNT_MODELS, PROTOCOLS
from src.dataset.store.folder import open_dataset
from src.evaluation.blend import Blend, BlendScorer, FeatureSource, feature_names
from src.evaluation.metrics import METRICS
from src.evaluation.path_scores import fit_count_models, path_scorers
from src.evaluation.targets import SPLITS
from src.report.finished_runs import read_runs
from src.runs.records import BLEND_WITHOUT, read_blend
from tests.support.command_runs import (
    DOMAINS,
    contents,
    data_step,
    failing,
    make_data,
    make_log,
    train,
)

STRICT = tuple(name + "-strict" for name in PROTOCOLS)
WRITTEN = {
    "results.json", "ranks.parquet", "targets.parquet", "serving.json", "data_card.json",
    "items.parquet",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(finished_run):
    """Finished runs by their mode."""
    modes = {"syncrec": ("--lr=0.02",), "sdsr_separate": ()}
    return {mode: finished_run(mode, f"--mode={mode}", *more) for mode, more in modes.items()}


@pytest.fixture
def run(finished, tmp_path):
    """A finished run with both paths, for this test alone."""
    return copy_of(finished["syncrec"], tmp_path)


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "runs" / "tiny" / folder.name)


def evaluate(run, *more):
    main.main([f"--evaluate={run}", *map(str, more)])


def results(run) -> dict:
    return json.loads((run / "results.json").read_text())


def groups(run) -> dict[tuple, list]:
    """{(split, protocol, path): rows} of ranks.parquet, a row group each."""
    file, found = pq.ParquetFile(run / "ranks.parquet"), {}
    for number in range(file.num_row_groups):
        rows = file.read_row_group(number).to_pylist()
        key = tuple(rows[0][name] for name in ("split", "protocol", "path"))
        assert key not in found
        found[key] = rows
    return found


def changed(before: dict, after: dict) -> set[str]:
    """Names of the files that are not what they were."""
    return {name for name in before | after if before.get(name) != after.get(name)}


# ------------------------------------------------------------------- again, and more of it


@pytest.mark.parametrize("mode", ["syncrec", "sdsr_separate"])
def test_scoring_again_gives_the_same_files_byte_for_byte(finished, mode, tmp_path, capsys):
    run = copy_of(finished[mode], tmp_path)
    before = contents(run)
    for name in WRITTEN - {"results.json"}:
        (run / name).unlink(missing_ok=True)
    capsys.readouterr()
    evaluate(run)
    assert contents(run) == before
    out = capsys.readouterr().out
    assert "epoch" not in out and f"run folder: {run}" in out


def test_a_run_is_found_from_any_folder_and_its_results_come_whole(run, monkeypatch):
    before = contents(run)
    monkeypatch.chdir(run.parent)
    (run / "results.json").write_text("{}")
    evaluate(run.name)
    assert changed(before, contents(run)) == set()


def test_strict_contexts_are_added_and_nothing_else_changes(run):
    before, results_before, groups_before = contents(run), results(run), groups(run)
    evaluate(run, "--strict_context")
    assert changed(before, contents(run)) == {"results.json", "ranks.parquet"}
    after = results(run)
    assert after.pop(BLEND_WITHOUT) == results_before.pop(BLEND_WITHOUT)
    for split, protocols in results_before.items():
        assert list(after[split]) == [*PROTOCOLS, *STRICT]
        assert all(after[split][name] == protocols[name] for name in PROTOCOLS)
    written = groups(run)
    assert all(written[key] == rows for key, rows in groups_before.items())
    added = {(split, protocol) for split, protocol, _ in written.keys() - groups_before.keys()}
    assert added == {(split, name) for split in ("valid", "test") for name in STRICT}
    whole = results(run)
    evaluate(run)  # what is not asked for stays
    assert (results(run), groups(run)) == (whole, written)


def test_protocols_are_added_to_those_that_the_folder_has(data, finished, tmp_path):
    """As if all had been asked for at once; `full` is always there, it decides what serves."""
    first = ("--protocol", "sampled")
    run = train(data, tmp_path, "some", "--lr=0.02", *first)
    assert set(results(run)["test"]) == {"full", "sampled"}
    stored = {path.name.split("-")[0] for path in (run.parent / "candidates").iterdir()}
    assert stored == {"sampled"}
    evaluate(run, "--protocol", "popular-unseen", "released")
    kept = {"full", "sampled", "popular-unseen", "released"}
    actual, whole = results(run), results(finished["syncrec"])
    rows, whole_rows = groups(run), groups(finished["syncrec"])
    for split in ("valid", "test"):
        assert actual[split] == {name: whole[split][name] for name in actual[split]}
        assert set(actual[split]) == kept
    assert rows == {key: value for key, value in whole_rows.items() if key[1] in kept}


def test_a_finished_run_called_again_for_more_is_scored_not_trained(data, run, tmp_path, capsys):
    before = contents(run)
    again = ("--lr=0.02", "--mode=syncrec")
    runs = tmp_path / "runs"
    train(data, runs, "syncrec", *again)
    assert contents(run) == before  # nothing is missing
    capsys.readouterr()
    train(data, runs, "syncrec", *again, "--strict_context")
    out = capsys.readouterr().out
    assert f"finished already: {run}" in out and "epoch" not in out
    assert f"scoring it again: no results yet of the protocols {', '.join(STRICT)}" in out
    assert set(results(run)["test"]) == {*PROTOCOLS, *STRICT}
    assert changed(before, contents(run)) == {"results.json", "ranks.parquet"}
    more = contents(run)
    train(data, runs, "syncrec", *again)  # asks for less than is there
    train(data, runs, "syncrec", *again, "--protocol", "full", "--strict_context")
    assert contents(run) == more


def test_other_negatives_replace_what_was_drawn(run):
    evaluate(run, "--strict_context")
    evaluate(run, "--no-strict_context", "--sampled_negatives=3")
    assert json.loads((run / "config.json").read_text())["sampled_negatives"] == 3
    assert set(results(run)["test"]) == set(PROTOCOLS)  # the strict ones were of other negatives
    for (_, protocol, _), rows in groups(run).items():
        if protocol in ("sampled", "sampled_all", "popular", "released"):
            assert {row["candidates"] for row in rows} == {4}
    evaluate(run, "--sampled_negatives=0")
    without = {"full", "full_all", "full-unseen", "full_all-unseen", "as_listed"}
    assert set(results(run)["test"]) == {protocol for _, protocol, _ in groups(run)} == without
    evaluate(run, "--candidate_seed=5", "--sampled_negatives=6")
    assert set(results(run)["test"]) == set(PROTOCOLS)


def test_fewer_users_at_a_time_keep_what_is_not_asked_for(run):
    evaluate(run, "--strict_context")
    before = results(run)
    evaluate(run, "--eval_users=5", "--protocol", "full")
    assert results(run) == before


def test_ties_read_otherwise_change_results_and_no_rank(run, finished):
    evaluate(run, "--ties=pessimistic")
    assert groups(run) == groups(finished["syncrec"])
    before, after = results(finished["syncrec"]), results(run)
    for name in DOMAINS:  # many items have as many training events
        pair = [actual["test"]["full"]["popularity"][name]["ndcg@10"] for actual in (before, after)]
        assert pair[1] < pair[0]
    assert after["test"]["released"] == before["test"]["released"]  # optimistic all the same


def test_small_domains_are_left_out_of_the_macro_mean_and_nothing_else_changes(run, finished):
    before, whole = results(finished["syncrec"]), contents(run)
    counts = {name: before["test"]["full"]["cross"][name]["n"] for name in DOMAINS}
    smallest = min(counts, key=counts.__getitem__)
    kept = [name for name in DOMAINS if counts[name] > counts[smallest]]
    evaluate(run, f"--min_domain_targets={counts[smallest] + 1}")
    assert changed(whole, contents(run)) == {"config.json", "results.json"}
    after = results(run)
    for split, protocols in before.items():
        sizes = {name: next(iter(protocols["full"].values()))[name]["n"] for name in DOMAINS}
        counted = [name for name in DOMAINS if sizes[name] > counts[smallest]]
        for protocol, paths in protocols.items():
            for path, means in paths.items():
                new = after[split][protocol][path]
                macro = {key: np.mean([means[name][key] for name in counted]) for key in means["A"]}
                macro["n"] = sum(sizes[name] for name in counted)
                assert new == means | {"macro": pytest.approx(macro, abs=1e-12)}
    assert after["test"]["full"]["cross"]["macro"]["n"] == sum(counts[name] for name in kept)
    evaluate(run)  # with what config.json has now
    assert results(run) == after
    evaluate(run, "--min_domain_targets=0")
    assert contents(run) == whole


def test_a_run_with_small_domains_left_out_trains_the_same_and_is_the_same_run(data, run, tmp_path):
    before = contents(run)
    most = max(results(run)["test"]["full"]["cross"][name]["n"] for name in DOMAINS)
    flags = ("--lr=0.02", "--mode=syncrec", f"--min_domain_targets={most}")
    other = contents(train(data, tmp_path / "other", "syncrec", *flags))
    differ = changed(before, other)
    assert {"config.json", "results.json"} <= differ
    assert not {"best.pt", "ranks.parquet", "serving.json", "metrics.csv"} & differ
    train(data, tmp_path / "runs", "syncrec", *flags)  # the finished run, scored again
    assert changed(before, contents(run)) == {"config.json", "results.json"}
    assert json.loads(contents(run)["results.json"]) == json.loads(other["results.json"])


def test_a_minimum_that_no_domain_reaches_is_refused_before_training(data, run, tmp_path, capsys):
    line = failing(capsys, run, lambda: evaluate(run, "--min_domain_targets=1000"))
    assert "--min_domain_targets 1000 leaves no domain in the mean over domains" in line
    most = int(line.split("give at most ")[1])
    line = failing(
        capsys, tmp_path / "runs",
        lambda: train(data, tmp_path / "runs", "new", f"--min_domain_targets={most + 1}"),
    )  # fmt: skip
    assert "give at most" in line
    evaluate(run, f"--min_domain_targets={most}")


def test_as_listed_is_added_to_a_run_from_before_it(run):
    """Whose ranks.parquet has no column `barred`; its rows are kept, and bar nothing."""
    before = groups(run)
    whole = pq.read_table(run / "ranks.parquet")
    old = whole.filter(pc.not_equal(whole["protocol"].cast(pa.string()), AS_LISTED))
    old = old.drop_columns("barred").unify_dictionaries()
    with pq.ParquetWriter(run / "ranks.parquet", old.schema) as writer:
        for split, protocol, path in before:
            if protocol != AS_LISTED:
                expression = (
                    (pc.field("split") == split)
                    & (pc.field("protocol") == protocol)
                    & (pc.field("path") == path)
                )
                writer.write_table(old.filter(expression))
    stored = results(run)
    for split in SPLITS:
        assert stored[split].pop(AS_LISTED)
    (run / "results.json").write_text(json.dumps(stored))
    scores = read_runs([run])[0].values("test", "full-unseen", "cross", "ndcg@10")  # as they are
    assert len(scores) == len(before["test", "full", "cross"])
    evaluate(run, "--protocol", AS_LISTED)
    assert groups(run) == before
    assert list(results(run)["test"])[-1] == AS_LISTED


# ------------------------------------------------------------------- strict contexts, by the rows


def test_strict_ranks_are_those_of_a_log_without_the_events_of_the_target_s_time(data, tmp_path):
    """A log whose days are coarse: without a tie before it, a target ranks the same."""
    coarse = shutil.copytree(data, tmp_path / "coarse")
    times = np.load(coarse / "sequences" / "times.npy")
    np.save(coarse / "sequences" / "times.npy", times // (100 * 86_400))
    run = train(coarse, tmp_path, "run", "--strict_context", "--protocol", "full", "full-unseen")
    facts = pq.read_table(run / "targets.parquet").to_pandas()
    assert set(results(run)["test"]) == {"full", "full-unseen", "full-strict", "full-unseen-strict"}
    written = groups(run)
    tied = facts[facts.split == "test"].same_time.tolist()
    assert 10 < sum(tied) < 40
    for path in ("cross", "single", "markov"):
        for protocol in ("full", "full-unseen"):
            plain, strict = (written["test", protocol + s, path] for s in ("", "-strict"))
            same = [
                [(row["better"], row["tied"], row["candidates"]) for row in rows]
                for rows in (plain, strict)
            ]
            differ = [one != other for one, other in zip(*same, strict=True)]
            assert any(differ)
            assert not any(differs and not tie for differs, tie in zip(differ, tied, strict=True))


def test_a_log_split_by_time_has_strict_contexts_alone(tmp_path):
    """And several targets a user, each from what was before its own time."""
    raw, data = make_log(tmp_path / "raw"), tmp_path / "data"
    data_step(
        "--data_name=tiny", "--strd_ym=202312", f"--raw_dir={raw}", f"--out_dir={data}",
        "--threads=1", "--split=temporal",
    )  # fmt: skip
    run = train(data, tmp_path, "run", "--strict_context", "--protocol", "full", "full-unseen")
    assert set(results(run)["test"]) == {"full", "full-unseen"}
    facts = pq.read_table(run / "targets.parquet").to_pandas()
    assert facts[facts.split == "test"].user_id.duplicated().any()
    log = open_dataset(data)
    users = {name: number for number, name in enumerate(log.user_ids.to_pylist())}
    for row in facts.groupby(["split", "user_id"], observed=True).history.agg(list).items():
        (split, user), histories = row
        own = slice(log.offsets[users[user]], log.offsets[users[user] + 1])
        times = log.times[own]
        held = times[log.split[own] == SPLITS[split]]
        assert histories == [(times < time).sum() for time in held]


# ------------------------------------------------------------------- the parts of the blend


@pytest.mark.parametrize("mode", ["syncrec", "sdsr_separate"])
def test_the_blend_without_a_part_is_ranked_by_the_same_weights_with_some_at_0(finished, mode):
    run = finished[mode]
    settings, dataset, ensemble = open_run(run)
    counts = fit_count_models(dataset, settings)
    blend = read_blend(run, dataset.domain_names, feature_names(settings.paths, counts))
    trend = {"recent x1", "recent x8", "recent x64", "covisit x1", "covisit x8"}
    habit = {"had", "own log count"}
    written = results(run)[BLEND_WITHOUT]
    assert list(written) == ["full"]
    assert list(written["full"]) == ["trend", "habit", "trend and habit"]
    values = []
    for lacking, means in zip((trend, habit, trend | habit), written["full"].values(), strict=True):
        assert lacking <= set(blend.names)
        kept = [float(name not in lacking) for name in blend.names]
        edited = Blend(blend.names, blend.weights * kept)

        def scorer(plan, rows, edited=edited):
            paths = path_scorers(ensemble, settings, plan, rows)
            return BlendScorer(edited, FeatureSource(plan, paths, counts))

        values.append({name: means[name]["ndcg@10"] for name in (*DOMAINS, "macro")})
        assert values[-1] == ndcg_on_test(dataset, scorer)
        assert list(means) == [*DOMAINS, "macro", "users"]
        assert set(means["users"]) == {*METRICS, "n"}
    blended = results(run)["test"]["full"][BLEND]
    values.append({name: blended[name]["ndcg@10"] for name in (*DOMAINS, "macro")})
    assert len({value["macro"] for value in values}) == 4


def test_only_parts_that_the_blend_has_are_left_out_of_it(run, capsys):
    before = results(run)
    evaluate(run, "--no-trend", "--protocol", "full")
    assert list(results(run)[BLEND_WITHOUT]["full"]) == ["habit"]
    paths = results(run)["test"]["full"]
    habit = results(run)[BLEND_WITHOUT]["full"]["habit"]["macro"]["ndcg@10"]
    whole = paths[BLEND]["macro"]["ndcg@10"]
    said = f"blend without habit {habit:.4f} (NDCG@10, macro; with all {whole:.4f})"
    assert said in capsys.readouterr().out.splitlines()
    evaluate(run, "--no-repeat", "--protocol", "full")
    assert BLEND_WITHOUT not in results(run)
    assert "blend without" not in capsys.readouterr().out
    evaluate(run, "--trend", "--repeat")
    assert results(run) == before


def test_joint_transitions_join_the_blend_and_the_tables(run, data):
    before = results(run)
    evaluate(run, "--joint_transitions")
    after = results(run)
    blend = json.loads((run / "blend.json").read_text())
    assert all("joint transitions" in weights for weights in blend.values())
    for split in ("valid", "test"):
        for protocol, paths in after[split].items():
            assert set(paths) - set(before[split][protocol]) == {"markov_any"}
            for path in set(paths) - {"markov_any", BLEND}:
                assert paths[path] == before[split][protocol][path]
    assert after["test"]["full"][BLEND] != before["test"]["full"][BLEND]
    served = [f"--run={run}", f"--data_dir={data}", "--serve_path=blend", "--k=3"]
    recommend.main(served)
    recommend.main([*served, "--at=test"])
    assert all((run / name).is_file() for name in ("recommendations.parquet", "test_lists.parquet"))
    evaluate(run, "--no-joint_transitions")
    assert results(run) == before


def test_a_run_that_was_scored_before_has_no_such_line(run, data, capsys):
    old = results(run)
    del old[BLEND_WITHOUT]
    (run / "results.json").write_text(json.dumps(old))
    train(data, run.parents[1], "syncrec", "--lr=0.02", "--mode=syncrec")
    out = capsys.readouterr().out
    assert "finished already" in out and "blend without" not in out
    assert results(run) == old


# ------------------------------------------------------------------- one model a domain


def test_models_of_single_domains_rank_over_all_domains_too(finished):
    scores = results(finished["sdsr_separate"])
    wanted = set(PROTOCOLS) - {"released"}
    for split in ("valid", "test"):
        assert set(scores[split]) == wanted
        assert all(
            set(paths) == {"single", BLEND, *COUNT_MODELS} for paths in scores[split].values()
        )
    rows = groups(finished["sdsr_separate"])["test", "full_all", "single"]
    assert {row["candidates"] for row in rows} == {36}
    own = groups(finished["sdsr_separate"])["test", "full", "single"]
    assert all(all_["better"] >= one["better"] for all_, one in zip(rows, own, strict=True))
    assert any(all_["better"] > one["better"] for all_, one in zip(rows, own, strict=True))


# ------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--lr=0.5"], ["--evaluate", "--lr 0.02", "drop --lr"]),
        (["--mode=cdsr"], ["--mode syncrec", "drop --mode"]),
        (["--select_metric=mrr"], ["--select_metric ndcg@10"]),
        (["--max_epochs=9"], ["--max_epochs 1"]),
        (["--protocol", "all"], ["--protocol all is unknown"]),
        (["--config=c.json"], ["--config", "--evaluate"]),
        (["--eval_users=0"], ["--eval_users must be at least 1"]),
    ],
)
def test_flags_that_are_about_another_training_are_refused(run, capsys, given, said):
    line = failing(capsys, run, lambda: evaluate(run, *given))
    for part in said:
        assert part in line


def test_the_released_protocol_of_a_run_without_its_scores(finished, tmp_path, capsys):
    run = copy_of(finished["sdsr_separate"], tmp_path)
    line = failing(capsys, run, lambda: evaluate(run, "--protocol", "released"))
    assert "--protocol released" in line and "sdsr_separate" in line


def test_a_folder_without_a_finished_run(run, capsys):
    (run / "results.json").unlink()
    line = failing(capsys, run, lambda: evaluate(run))
    assert f"--evaluate {run}: not a finished run" in line
    line = failing(capsys, run, lambda: evaluate(run / "none"))
    assert f"--evaluate {run / 'none'}: not a finished run" in line


def test_a_run_on_other_data(run, tmp_path, capsys):
    other = make_data(tmp_path / "other", seed=2)
    line = failing(capsys, run, lambda: evaluate(run, f"--data_dir={other}"))
    assert f"{run} holds a run on other data" in line and "--data_dir" in line


def test_a_run_without_its_checkpoint(run, capsys):
    (run / "best.pt").unlink()
    line = failing(capsys, run, lambda: evaluate(run))
    assert "best.pt does not exist" in line


def test_data_that_moved_is_found_with_data_dir(data, run, tmp_path):
    moved = shutil.copytree(data, tmp_path / "moved")
    before = contents(run)
    evaluate(run, f"--data_dir={moved}")
    assert changed(before, contents(run)) == set()
