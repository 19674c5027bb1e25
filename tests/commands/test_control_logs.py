"""The control logs and the thinned ones: what is destroyed or left out, and what stays."""

import numpy as np
import pandas as pd
import pytest

from experiments import shuffled_log, thinned_log
from src.io.errors import UserError


@pytest.fixture
def log(tmp_path):
    rng = np.random.default_rng(0)
    domains = rng.choice(["A", "B", "C"], 600, p=[0.5, 0.3, 0.2])
    frame = pd.DataFrame(
        {
            "user_id": [f"u{number}" for number in rng.integers(0, 60, 600)],
            "item_id": [
                f"{name}{item}"
                for name, item in zip(domains, rng.integers(0, 40, 600), strict=True)
            ],
            "domain": domains,
            "unix_time": rng.permutation(600),
        }
    )
    frame.to_csv(tmp_path / "interactions.csv.gz", index=False)
    return frame.sort_values(["user_id", "unix_time"], ignore_index=True)


def shuffled(folder, kind, seed=0):
    out = folder / f"{kind}{seed}"
    shuffled_log.main([f"--raw={folder}", f"--kind={kind}", f"--out={out}", f"--seed={seed}"])
    return pd.read_csv(out / "interactions.csv.gz")


def sequences(frame, domain):
    rows = frame[frame.domain == domain]
    return sorted(tuple(items) for _, items in rows.groupby("user_id").item_id)


@pytest.mark.parametrize("kind", ["order", "others"])
def test_users_keep_their_times_and_the_log_its_events(log, tmp_path, kind):
    other = shuffled(tmp_path, kind)
    assert other[["user_id", "unix_time"]].equals(log[["user_id", "unix_time"]])
    events = ["item_id", "domain"]
    assert sorted(map(tuple, other[events].values)) == sorted(map(tuple, log[events].values))
    assert (other.item_id != log.item_id).mean() > 0.7
    assert other.equals(shuffled(tmp_path, kind))
    assert not other.equals(shuffled(tmp_path, kind, seed=1))


def test_order_keeps_what_each_user_did(log, tmp_path):
    other = shuffled(tmp_path, "order")
    for user, events in log.groupby("user_id"):
        mine = other[other.user_id == user]
        assert sorted(mine.item_id) == sorted(events.item_id)
    assert sequences(other, "A") != sequences(log, "A")


def test_others_keeps_the_sequences_of_each_domain_and_exchanges_their_users(log, tmp_path):
    other = shuffled(tmp_path, "others")
    assert other.domain.equals(log.domain)
    for domain in "ABC":
        assert sequences(other, domain) == sequences(log, domain)

    def pairs(frame):
        by_user = [
            frame[frame.domain == domain].groupby("user_id").item_id.agg(tuple) for domain in "AB"
        ]
        return set(pd.concat(by_user, axis=1).dropna().itertuples(index=False, name=None))

    assert len(pairs(other) & pairs(log)) < 0.2 * len(pairs(log))


def test_a_folder_without_the_log_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no interactions\.csv\.gz"):
        shuffled(tmp_path, "order")


def thinned(folder, keep, seed=0):
    out = folder / f"{keep}-{seed}"
    thinned_log.main([f"--raw={folder}", f"--keep={keep}", f"--seed={seed}", f"--out={out}"])
    return pd.read_csv(out / "interactions.csv.gz")


def test_a_thinned_log_keeps_some_users_whole(log, tmp_path):
    half, quarter = thinned(tmp_path, 0.5), thinned(tmp_path, 0.25)
    users = log.user_id.nunique()
    assert half.user_id.nunique() == round(0.5 * users)
    assert quarter.user_id.nunique() == round(0.25 * users)
    assert set(quarter.user_id) < set(half.user_id)
    for frame in (half, quarter):
        whole = log[log.user_id.isin(frame.user_id)]
        ordered = frame.sort_values(["user_id", "unix_time"], ignore_index=True)
        pd.testing.assert_frame_equal(ordered, whole.reset_index(drop=True))
    assert set(thinned(tmp_path, 0.5, seed=1).user_id) != set(half.user_id)


@pytest.mark.parametrize("keep", ["0", "1.5"])
def test_a_share_that_is_none_is_refused(log, tmp_path, keep):
    with pytest.raises(UserError, match="give a share above 0, at most 1"):
        thinned(tmp_path, keep)
