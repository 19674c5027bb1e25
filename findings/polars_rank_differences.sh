#!/usr/bin/env bash
# In Polars ranks, counts and row numbers are unsigned: the difference of two models' ranks or hits wraps to 4 billion
# wherever it is below zero.
#
# Versions: polars 2.1.0, numpy 2.4.6, Python 3.11 or newer.
# Expected: a rank of 3 minus a rank of 5 is -2, as with pandas and with Polars' own `rank()` of the default method, which
# is a float; or an error.
# Seen, 1,000 targets in ten domains, scored by two models that are equally good at random:
#   expression                                                        result
#   mean of rank_a - rank_b, rank(method="ordinal")                   2.1 billion
#   the same with method "min", "max", "dense"                        2.1 billion
#   the same with the default, "average"                              0.9
#   hits_a - hits_b by domain, hits = (rank <= 10).sum()              4,294,967,29x where A has fewer
#   rank.diff() and rank - rank.shift(1)                              signed, unsigned
# Cast to Int64 before a difference. Here ranks are int64. Fails if the figures change.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check polars==2.1.0 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import polars as pl

USERS, CANDIDATES = 1000, 100
rng = np.random.default_rng(0)
user = np.repeat(np.arange(USERS), CANDIDATES)
frame = pl.DataFrame(
    {
        "user": user,
        "domain": user % 10,
        "target": np.tile(np.arange(CANDIDATES) == 0, USERS),
        "a": rng.random(len(user)),
        "b": rng.random(len(user)),
    }
)


def ranks(**options):
    """The rank of each user's target by the two models."""
    columns = {
        f"rank_{model}": pl.col(model).rank(descending=True, **options).over("user") for model in "ab"
    }
    return frame.with_columns(**columns).filter("target")


print("polars", pl.__version__, "numpy", np.__version__)
difference = pl.col("rank_a") - pl.col("rank_b")
signed = pl.col("rank_a").cast(pl.Int64) - pl.col("rank_b")
for method in ("ordinal", "min", "max", "dense"):
    table = ranks(method=method)
    wrapped, true = table.select(difference.mean().alias("wrapped"), signed.mean().alias("true")).row(0)
    print(f"{method:<8} {table.schema['rank_a']} mean difference {wrapped:.3g}, signed {true:.3g}")
    assert wrapped > 1e9 and abs(true) < 5
average = ranks()
print("average", average.schema["rank_a"], average.select(difference.mean()).item())
assert abs(average.select(difference.mean()).item()) < 5

table = ranks(method="ordinal")
hits = table.group_by("domain").agg(
    (pl.col("rank_a") <= 10).sum().alias("a"), (pl.col("rank_b") <= 10).sum().alias("b")
)
hits = hits.with_columns(difference=pl.col("a") - pl.col("b")).sort("domain")
print(hits)
fewer = hits.filter(pl.col("a") < pl.col("b"))
assert len(fewer) and (fewer["difference"] > 4_294_967_200).all()
changes = table.select(pl.col("rank_a").diff().alias("diff"), shift=pl.col("rank_a") - pl.col("rank_a").shift(1))
assert changes["diff"].min() < 0 <= changes["shift"].min()
PYTHON
echo "as described"
