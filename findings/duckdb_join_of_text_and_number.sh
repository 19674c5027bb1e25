#!/usr/bin/env bash
# In DuckDB a join of ids that are text with ids that are numbers makes different ids one, silently.
#
# Versions: duckdb 2.0.0, pandas 3.1.1, pyarrow 26.0.1, Python 3.11 or newer.
# Expected: an error, as in pandas' merge, in Arrow's join and in PostgreSQL, or no match but of equal text;
# and = and IN agree.
# Seen, events.csv (item: 7, 007, 7.4, 7e0, 0x7, 1_1) beside items.csv (id: 7, 11):
#   read_csv                     item is VARCHAR, because of 007; id is BIGINT
#   events JOIN items ON item = id   all six events: five are item 7, and 1_1 is item 11
#   WHERE item = 7               five events, 7.4 among them
#   WHERE item IN (SELECT id …)  Binder Error: an explicit cast is required
#   a seventh event, B00X        the join stops with a Conversion Error
# Since 0.10 other comparisons ask for a cast; = alone casts the text to BIGINT, which rounds decimals and
# reads exponents, hexadecimal digits and underscores. So a join that was right on one month's export counts
# a variant (7.4) or a compound id (1_1) as another item on the next, and fails only once an id is not a number.
# Reading both files with all_varchar leaves one match, 7. make_dataset.py takes ids as text, whatever they
# look like.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  duckdb==2.0.0 pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6 2> >(grep -v WARNING >&2)
cd "$work"
printf 'item\n7\n007\n7.4\n7e0\n0x7\n1_1\n' > events.csv
printf 'id,name\n7,seven\n11,eleven\n' > items.csv
"$work/venv/bin/python" - <<'END'
import duckdb
import pyarrow as pa

changed = 0


def show(name, found, seen):
    global changed
    changed += found != seen
    print(f"{name:36} {found}", "" if found == seen else "CHANGED")


def outcome(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__


duck = duckdb.connect()
for name in ("events", "items"):
    duck.sql(f"CREATE TABLE {name} AS FROM read_csv('{name}.csv')")
types = [duck.sql(f"SELECT typeof({column}) FROM {table} LIMIT 1").fetchall()[0][0]
         for column, table in (("item", "events"), ("id", "items"))]
show("types", types, ["VARCHAR", "BIGINT"])
JOIN = "SELECT item, name FROM events JOIN items ON item = id ORDER BY item"
joined = duck.sql(JOIN).fetchall()
sevens = ["007", "0x7", "7", "7.4", "7e0"]
show("join", joined, sorted([*((item, "seven") for item in sevens), ("1_1", "eleven")]))
equal = duck.sql("SELECT item FROM events WHERE item = 7 ORDER BY item").fetchall()
show("item = 7", [item for (item,) in equal], sevens)
inside = "SELECT item FROM events WHERE item IN (SELECT id FROM items)"
show("item IN (SELECT id)", outcome(lambda: duck.sql(inside).fetchall()), "BinderException")
as_text = "FROM read_csv('events.csv', all_varchar = true) JOIN read_csv('items.csv', all_varchar = true)"
show("join, both all_varchar", duck.sql(f"SELECT item, name {as_text} ON item = id").fetchall(), [("7", "seven")])
events, items = duck.table("events").df(), duck.table("items").df()
merged = outcome(lambda: events.merge(items, left_on="item", right_on="id"))
show("pandas merge", merged, "ValueError")
left, right = pa.Table.from_pandas(events), pa.Table.from_pandas(items)
show("Arrow join", outcome(lambda: left.join(right, "item", "id", join_type="inner")), "ArrowInvalid")
duck.sql("INSERT INTO events VALUES ('B00X')")
show("join with B00X", outcome(lambda: duck.sql(JOIN).fetchall()), "ConversionException")
raise SystemExit(changed > 0)
END
