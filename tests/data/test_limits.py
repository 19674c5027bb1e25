"""The limits are those of the model that drew the log: exact, causal, and what its targets show."""

import dataclasses
import gzip
import hashlib
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from src.config.dataset_settings import cutoff
from src.dataset.generator import interests, planted
from src.dataset.generator.__main__ import main
from src.dataset.generator.filtering import Evidence, forward
from src.dataset.generator.interests import MEAN_DAYS, InterestConfig, InterestLog, Laws, generate
from src.dataset.generator.limits import expected_ndcg, summarise, target_limits
from src.dataset.generator.log_file import DAY, END_SECOND, FILE_NAME, FIRST_SECOND
from src.dataset.generator.posterior import VIEWS, item_probabilities, read_history
from src.dataset.store.folder import TEST, open_dataset
from src.io.errors import UserError
from tests.support.command_runs import ROOT, data_step

END = cutoff("202312")
TINY = InterestConfig(
    users=40, events=5, states=3, cluster_items=2, domains=("a", "b", "c"), shares=(2.0, 1.0, 1.0),
    relatedness=(1.0, 0.6, 0.3), jump=0.3, private_jump=0.5, noise=0.3, trend=0.8, seed=3,
)  # fmt: skip
MIXED = InterestConfig(users=1200, relatedness=(0.0, 1.0, 1.0, 0.5, 1.0), seed=5)


@pytest.fixture(scope="module")
def mixed() -> tuple[InterestLog, Laws, pd.DataFrame]:
    log, laws = generate(MIXED)
    return log, laws, target_limits(MIXED, log, laws)


# --- the posterior, by enumeration ----------------------------------------------------------------


def step_matrix(config: InterestConfig, jump: float) -> np.ndarray:
    """[S, S] one step of an interest, as the model is described."""
    states = config.states
    following = np.roll(np.eye(states), 1, axis=1)
    anywhere = np.full((states, states), 1 / states)
    changed = config.follow * following + (1 - config.follow) * anywhere
    return (1 - jump) * np.eye(states) + jump * changed


def item_chances(config: InterestConfig, laws: Laws, domain: int, time: int) -> np.ndarray:
    """[S, slots] the chance of each item of a domain in each state at a time."""
    day = (time - FIRST_SECOND) // DAY
    phases = laws.phases[domain]
    appeal = np.exp(config.trend * np.sin(2 * np.pi * (day / interests.PERIOD + phases)))
    noise = laws.popularity[domain] * appeal / (laws.popularity[domain] * appeal).sum()
    chances = np.tile(config.noise * noise, (config.states, 1))
    for state in range(config.states):
        cluster = slice(state * config.cluster_items, (state + 1) * config.cluster_items)
        weights = appeal[cluster] / np.arange(1, config.cluster_items + 1) ** config.sharpness
        chances[state, cluster] += (1 - config.noise) * weights / weights.sum()
    return chances


def path_sum(steps: list[np.ndarray], chances: list[np.ndarray]) -> np.ndarray:
    """[S] the joint probability of the events and the state of the target, over all paths.

    steps: one [S, S] before each event but the first, and before the target; chances: [S] of each
    event's item.
    """
    states = len(steps[-1]) if steps else 0
    total = np.zeros(states)
    for path in itertools.product(range(states), repeat=len(chances) + 1):
        weight = 1 / states
        for place, chance in enumerate(chances):
            weight *= chance[path[place]] * steps[place][path[place], path[place + 1]]
        total[path[-1]] += weight
    return total


def unseen_steps(step: np.ndarray, mean: float) -> np.ndarray:
    """[S, S] one step and a Poisson number of others."""
    total, weight, power = np.zeros_like(step), np.exp(-mean), step
    for count in range(1, 60):
        total, power = total + weight * power, power @ step
        weight *= mean / count
    return total


def by_enumeration(
    config: InterestConfig,
    laws: Laws,
    events: list,
    target: tuple[int, int],
    view: str,
    window: int,
) -> np.ndarray:
    """[slots] the chance of each item of the target; events of (domain, slot, time)."""
    domain, time = target
    known = [event for event in events if view != "own" or event[0] == domain]
    known = known if view == "everything" else known[-window:]
    shares = np.array(config.shares) / sum(config.shares)
    rate = config.events / (MEAN_DAYS * DAY)
    total = np.zeros(config.states * config.cluster_items)
    for reads in itertools.product((False, True), repeat=len(config.domains)):
        group = [d for d, shared in enumerate(reads) if shared]
        chains = [(group, config.jump)]
        chains += [([d], config.private_jump) for d, shared in enumerate(reads) if not shared]
        weight = np.prod(
            [r if shared else 1 - r for r, shared in zip(config.relatedness, reads, strict=True)]
        )
        for readers, jump in chains:
            step = step_matrix(config, jump)
            read = [event for event in known if event[0] in readers]
            chances = [item_chances(config, laws, d, t)[:, slot] for d, slot, t in read]
            stamps = [t for _, _, t in read] + [time]
            hidden = shares[[d for d in readers if d != domain]].sum() if view == "own" else 0.0
            steps = [unseen_steps(step, hidden * rate * gap) for gap in np.diff(stamps)]
            if domain in readers:
                belief = path_sum(steps, chances) if read else np.full(config.states, 1 / 3)
            elif read:
                weight *= path_sum(steps, chances).sum()
        total += weight * (belief @ item_chances(config, laws, domain, time))
    return total / total.sum()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("window", [2, 50])
@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_the_probabilities_are_those_of_enumerating_all_hidden_paths(view, window, noise):
    config = dataclasses.replace(TINY, noise=noise)
    log, laws = generate(config)
    past = read_history(config, log, laws, END)
    targets = past.targets()
    starts = past.offsets[:-1][np.diff(past.offsets) >= 3]
    few = targets - starts <= 6
    compared = 0
    for domain in range(len(config.domains)):
        rows = np.flatnonzero(few & (past.domains[targets] == domain))[:4]
        chances = item_probabilities(config, laws, past, targets[rows], view, window)
        for row, found in zip(rows, chances, strict=True):
            events = [
                (past.domains[e], past.slots[e], past.times[e])
                for e in range(starts[row], targets[row])
            ]
            target = past.domains[targets[row]], past.times[targets[row]]
            right = by_enumeration(config, laws, events, target, view, window)
            assert found == pytest.approx(right, rel=1e-9, abs=1e-12)
            compared += 1
    assert compared >= 8


def test_events_that_are_impossible_under_a_reading_rule_it_out():
    """Without noise and changes, an interest cannot show the items of two states."""
    events = np.array([[0, 1]])
    chances = np.full((1, 2), 0.5)
    evidence = Evidence(np.array([2]), events, chances, 0 * chances, np.zeros((1, 3)))
    belief, likelihood = forward(evidence, law=np.array([1.0, 0.0]))
    assert np.isfinite(belief).all()
    assert likelihood[0] < -500


# --- the limits -----------------------------------------------------------------------------------


def test_knowing_everything_is_best_for_each_target(mixed):
    _, _, limits = mixed
    for view in ("own", "joined"):
        assert (limits["everything"] >= limits[view] - 1e-12).all()
        assert limits["everything"].mean() > limits[view].mean()


def test_other_domains_tell_more_where_the_interest_is_shared_and_nothing_where_it_is_not(mixed):
    gain = summarise(MIXED, mixed[2]).set_index("domain")["joined_minus_own"]
    assert abs(gain["gen_Books"]) < 0.001  # private
    assert 0.005 < gain["gen_Games"] < gain["gen_Clothing"]  # busy, sparse
    assert gain["gen_Sports"] > 0.005  # half of its users


@pytest.mark.parametrize("view", VIEWS)
def test_the_expected_and_the_realised_value_agree(mixed, view):
    _, _, limits = mixed
    difference = limits[f"{view}_realised"] - limits[view]
    for _, part in [*difference.groupby(limits["domain"]), ("all", difference)]:
        assert abs(part.mean()) < 3.5 * part.sem()
    assert limits[view].sem() < limits[f"{view}_realised"].sem() / 2


def test_nothing_at_or_after_a_target_changes_its_limits(mixed):
    log, laws, limits = mixed
    last = pd.Series(limits["time"].to_numpy(), limits["user"]).reindex(log.users).to_numpy()
    later = log.times >= last
    assert later.sum() > len(limits)  # the targets, and what lies after the cut-off
    domains = np.where(log.times > last, (log.domains + 1) % 5, log.domains)
    items = np.where(later, (log.items + 7) % 96, log.items)
    changed = target_limits(MIXED, dataclasses.replace(log, domains=domains, items=items), laws)
    assert (changed["item"] != limits["item"]).all()
    pd.testing.assert_frame_equal(changed[[*VIEWS]], limits[[*VIEWS]], check_exact=True)


@pytest.mark.parametrize("view", VIEWS)
def test_events_in_the_midst_of_a_history_are_ranked_by_what_was_before_them(mixed, view):
    log, laws, _ = mixed
    past = read_history(MIXED, log, laws, END)
    middle = (past.offsets[:-1] + past.offsets[1:]) // 2
    middle = middle[past.domains[middle] == 1]
    before = np.arange(len(past.times)) < np.repeat(
        (past.offsets[:-1] + past.offsets[1:]) // 2, np.diff(past.offsets)
    )
    shift = np.where(before, 0, 31)
    other = dataclasses.replace(
        past,
        slots=(past.slots + shift) % 96,
        signal=np.where(before, past.signal, 0.01),
        noise=np.where(before, past.noise, 0.02),
        times=past.times,
    )
    a, b = (item_probabilities(MIXED, laws, events, middle, view, 50) for events in (past, other))
    assert (a == b).all()
    earlier = dataclasses.replace(past, slots=(past.slots + 31) % 96)
    assert (item_probabilities(MIXED, laws, earlier, middle, view, 50) != a).any()


def test_the_targets_are_those_of_the_dataset(tmp_path):
    log, laws = generate(TINY)
    interests.write_log(TINY, log, tmp_path / "raw")
    data_step(
        "--data_name=amazon", "--strd_ym=202206", f"--raw_dir={tmp_path / 'raw'}",
        f"--out_dir={tmp_path / 'data'}",
    )  # fmt: skip
    dataset = open_dataset(tmp_path / "data")
    events = np.flatnonzero(np.asarray(dataset.split) == TEST)
    users = np.searchsorted(dataset.offsets, events, side="right") - 1
    in_dataset = {
        (user, item, int(time))
        for user, item, time in zip(
            dataset.user_ids.take(users).to_pylist(),
            dataset.item_ids.take(dataset.items[events] - 1).to_pylist(),
            dataset.times[events],
            strict=True,
        )
    }
    limits = target_limits(dataclasses.replace(TINY, strd_ym="202206"), log, laws)
    assert len(limits) > 10
    assert in_dataset == {
        (f"g{row.user:05d}", f"{TINY.domains[row.domain]}-{row.item:04d}", row.time)
        for row in limits.itertuples()
    }


def test_ties_share_their_ranks():
    gains = np.append(1 / np.log2(np.arange(2, 12)), [0, 0])  # of 12 ranks
    chances = np.random.default_rng(0).dirichlet(np.ones(12), size=3)
    constant = expected_ndcg(np.zeros((3, 12)), chances)
    assert constant == pytest.approx([gains.mean()] * 3)
    scores = np.tile(np.repeat([3.0, 9.0, 1.0], 4), (3, 1))  # the middle four are best
    shared = np.repeat(gains.reshape(3, 4).mean(axis=1)[[1, 0, 2]], 4)
    assert expected_ndcg(scores, chances) == pytest.approx(chances @ shared)
    order = np.argsort(-chances, axis=1)
    assert expected_ndcg(chances, chances) == pytest.approx(
        (np.take_along_axis(chances, order, axis=1) * gains).sum(axis=1)
    )


# --- the log --------------------------------------------------------------------------------------


def test_the_log_is_what_the_model_says(mixed):
    log, laws, _ = mixed
    assert (np.diff(log.times) > 0).all()
    assert log.times[0] >= FIRST_SECOND and log.times[-1] < END_SECOND
    assert np.bincount(log.domains) / len(log.domains) == pytest.approx(MIXED.shares, abs=0.01)
    assert np.bincount(log.users).mean() == pytest.approx(MIXED.events, rel=0.02)
    assert log.related.mean(axis=0) == pytest.approx(MIXED.relatedness, abs=0.05)
    assert np.mean(log.noise) == pytest.approx(MIXED.noise, abs=0.01)
    slots = np.argsort(laws.shelves, axis=1)[log.domains, log.items]
    signal = ~log.noise
    assert (slots[signal] // MIXED.cluster_items == log.states[signal]).all()
    ranks = np.bincount(slots[signal] % MIXED.cluster_items) / signal.sum()
    zipf = 1 / np.arange(1, MIXED.cluster_items + 1) ** MIXED.sharpness
    assert ranks == pytest.approx(zipf / zipf.sum(), abs=0.01)


def test_the_events_between_two_of_a_domain_have_the_poisson_law_of_the_time_between(mixed):
    log, _, _ = mixed
    order = np.lexsort((log.times, log.users))
    own = np.flatnonzero(log.domains[order] == 1)
    users, times = log.users[order][own], log.times[order][own]
    follows = users[1:] == users[:-1]
    between = (np.diff(own) - 1)[follows]
    expected = 0.9 * interests.event_rate(MIXED) * np.diff(times)[follows]
    excess = between - expected
    assert abs(excess.mean()) < 3 * excess.std() / len(excess) ** 0.5
    assert excess.var() == pytest.approx(expected.mean(), rel=0.06)


@pytest.mark.parametrize("reads_shared", [True, False])
def test_interests_stay_follow_and_jump_as_often_as_they_should(mixed, reads_shared):
    log, _, _ = mixed
    order = np.lexsort((log.times, log.users))
    users, domains, states = log.users[order], log.domains[order], log.states[order]
    reads = log.related[users, domains] if reads_shared else domains == 0
    users, states = users[reads], states[reads]
    moves = (np.diff(states) % MIXED.states)[users[1:] == users[:-1]]
    law = np.bincount(moves, minlength=MIXED.states) / len(moves)
    jump = MIXED.jump if reads_shared else MIXED.private_jump
    assert law == pytest.approx(step_matrix(MIXED, jump)[0], abs=0.006)


def test_a_trend_moves_items_with_the_days():
    config = dataclasses.replace(TINY, users=3000, trend=1.5, noise=1.0)
    log, laws = generate(config)
    assert log.times[0] >= FIRST_SECOND
    slots = np.argsort(laws.shelves, axis=1)[log.domains, log.items]
    days = (log.times - FIRST_SECOND) // DAY
    wave = np.sin(2 * np.pi * (days / interests.PERIOD + laws.phases[log.domains, slots]))
    assert wave.mean() > 0.3  # 0 without a trend
    flat, flat_laws = generate(dataclasses.replace(config, trend=0.0))
    slots = np.argsort(flat_laws.shelves, axis=1)[flat.domains, flat.items]
    days = (flat.times - FIRST_SECOND) // DAY
    wave = np.sin(2 * np.pi * (days / interests.PERIOD + flat_laws.phases[flat.domains, slots]))
    assert abs(wave.mean()) < 0.05


@pytest.mark.parametrize(
    ("flags", "sha256"),
    [
        ((), "e481d02b02692273ffe4b4e4ba790a229ce02f1ad24d337fe64f147b4f8700bb"),
        (
            ("--preset=planted",),
            "980e08ee1be1ca9d6851bca3498ee4e129e5cfb64555687a3c6a939de686f07e",
        ),
        (
            ("--preset=planted", "--users=60", "--events=12", "--seed=7"),
            "cbcf97ab6acb7f00726a920995f86b7cd8c63268405d966e983f73cf34284065",
        ),
    ],
    ids=["interests", "planted", "planted-small"],
)
def test_the_log_of_a_preset_never_changes(tmp_path, flags, sha256):
    main([*flags, "--out", str(tmp_path)])
    text = gzip.decompress((tmp_path / FILE_NAME).read_bytes())
    assert hashlib.sha256(text).hexdigest() == sha256


def test_the_log_that_was_bundled_before_is_still_written(tmp_path):
    """Its events: the comments above them have since changed."""
    main(["--preset=planted", "--out", str(tmp_path)])
    text = gzip.decompress((tmp_path / FILE_NAME).read_bytes())
    events = b"".join(line for line in text.splitlines(True) if not line.startswith(b"#"))
    former = "d65cdb77a48f1a21df7049bcf76175fa11e0c6ac5545b1c1f2bc43c030274967"
    assert hashlib.sha256(events).hexdigest() == former


def test_the_command_in_the_header_writes_the_log_again(tmp_path):
    first = interests.write_log(TINY, generate(TINY)[0], tmp_path / "a").read_bytes()
    command = interests.header(TINY)["command"].replace("DIR", str(tmp_path / "b"))
    main(command.split("src.dataset.generator ")[1].split())
    assert (tmp_path / "b" / FILE_NAME).read_bytes() == first
    other = dataclasses.replace(TINY, seed=4)
    assert interests.write_log(other, generate(other)[0], tmp_path / "c").read_bytes() != first


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_the_limits_and_writes_them(tmp_path, capsys):
    flags = ["--preset=interests", "--users=60", "--limits", "--window=20"]
    main(flags)
    printed = capsys.readouterr().out
    assert "L = 20" in printed and printed.count("gen_") == 5
    main([*flags, f"--out={tmp_path / 'limits'}"])
    assert capsys.readouterr().out == printed
    files = tmp_path / "limits"
    assert {path.name for path in files.iterdir()} == {"limits.csv", "limits.json"}
    table = pd.read_csv(files / "limits.csv")
    record = json.loads((files / "limits.json").read_text())
    assert record["window"] == 20 and "--users 60" in record["log"]
    assert table["targets"].sum() == sum(row["targets"] for row in record["domains"]) == 60
    assert table["joined"].tolist() == [row["joined"] for row in record["domains"]]


def test_the_published_limits_are_those_of_the_defaults_and_as_documented():
    """Two domains where other domains tell much, two where they tell nothing."""
    published = json.loads((ROOT / "results" / "limits" / "limits.json").read_text())
    config = InterestConfig()
    assert published["log"] == interests.command_line(config)
    assert published["window"] == 50
    summary = summarise(config, target_limits(config, *generate(config)))
    table = pd.DataFrame(published["domains"])
    pd.testing.assert_frame_equal(table, summary, rtol=0, atol=2e-6)
    gains = table.set_index("domain")["joined_minus_own"]
    assert gains[["gen_Clothing", "gen_Toys"]].min() >= 0.03
    assert gains[["gen_Books", "gen_Sports"]].abs().max() <= 0.005
    text = (ROOT / "docs" / "evaluation.md").read_text()
    for row in published["domains"]:
        assert f"| {row['domain']} | {row['targets']} | {row['own']:.4f} ±" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shares", "1"], "--shares has 1 values for 5 --domains"),
        (["--shares", *"00000"], "--shares are all 0"),
        (["--shares", *"1111", "inf"], "--shares has the value inf"),
        (["--relatedness", *"0000", "2"], "--relatedness has the value 2.0"),
        (["--trend", "-1"], "--trend has the value -1.0"),
        (["--limits", "--strd_ym", "201901"], "leaves no user with three events"),
        (["--limits", "--window", "0"], "--window 0 is too small"),
        ([], "--out is missing"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(tmp_path, flags, words):
    out = ["--out", str(tmp_path / "out")] if flags else []
    with pytest.raises(UserError, match=words):
        main(["--preset=interests", "--users=20", *flags, *out])
    assert not (tmp_path / "out").exists()


def test_only_interests_has_limits(capsys):
    with pytest.raises(SystemExit):
        main(["--preset=planted", "--limits"])
    assert "unrecognized arguments: --limits" in capsys.readouterr().err
    assert not hasattr(planted.SyntheticConfig(), "limits")
