#!/usr/bin/env bash
# In DuckDB one number among the text ids of a JSON file puts all of them in quotation marks, if it comes early.
#
# Versions: duckdb 2.0.0, pandas 3.1.1, pyarrow 26.0.1, Python 3.11 or newer.
# Expected: a column of texts and numbers is read as text, as DuckDB itself does with CSV; or it is refused, as by
# Arrow; and the same rows in another order give the same table.
# Seen, 40,000 events of the items B00000 to B00004, but one with the number 1234567890 and one with "1234567890":
#   the number is in row            100                  30,000
#   type of the column              JSON                 VARCHAR
#   df(), Parquet, CSV have         "B00000", quoted     B00000
#   item::VARCHAR = 'B00000'        0 rows               7,998
#   item = 'B00000'                 Conversion Error     7,998
#   different items                 7                    6
#   count of IN (items of a table)  1                    40,000
# The type is inferred from the first 20,480 rows. Text and number have JSON in common there, whose values keep
# their quotation marks when they are cast to text. No text of the file then matches an id of the catalogue. ->> '$' takes the
# text, and columns = {item: 'VARCHAR'} reads it. Here lines are read as text and fields by json_extract_string.
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.0 pandas==3.1.1 pyarrow==26.0.1 \
  2> >(grep -v WARNING >&2)
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.json

NUMBER, ROWS = 1234567890, 40_000
changed = 0


def show(name, found, seen):
    global changed
    changed += found != seen
    print(f"{name:34} {found}", "" if found == seen else "CHANGED")


def outcome(work):
    try:
        return work()
    except Exception as error:
        return type(error).__name__


def events(row):
    """A file of events whose item is a number in one row and that number as text in a later one."""
    items = [f"B{number % 5:05}" for number in range(ROWS)]
    items[row], items[row + 5] = NUMBER, str(NUMBER)
    name = f"{row}.jsonl"
    with open(name, "w") as file:
        file.writelines(json.dumps({"user": user, "item": item}) + "\n" for user, item in enumerate(items))
    return name


def value(query):
    return duckdb.sql(query).fetchall()[0][0]


print("duckdb", duckdb.__version__, "pandas", pd.__version__, "pyarrow", pa.__version__)
duckdb.sql("CREATE TABLE items AS SELECT unnest(['B00000', 'B00001', 'B00002', 'B00003', 'B00004', '1234567890']) item")
for row, column, first, cast, equal, different, known in (
    (100, "JSON", '"B00001"', 0, "ConversionException", 7, 1),
    (30_000, "VARCHAR", "B00001", 7_998, 7_998, 6, ROWS),
):
    log = f"read_json('{events(row)}')"
    print("the number in row", row)
    show("type", value(f"SELECT typeof(item) FROM {log}"), column)
    duckdb.sql(f"COPY (FROM {log}) TO 'copy.parquet'")
    duckdb.sql(f"COPY (FROM {log}) TO 'copy.csv' (QUOTE '''')")
    show("df()", duckdb.sql(f"FROM {log}").df().item[1], first)
    show("Parquet", pd.read_parquet("copy.parquet").item[1], first)
    show("CSV", open("copy.csv").read().splitlines()[2], f"1,{first}")
    show("item::VARCHAR = 'B00000'", value(f"SELECT count(*) FROM {log} WHERE item::VARCHAR = 'B00000'"), cast)
    show("item = 'B00000'", outcome(lambda: value(f"SELECT count(*) FROM {log} WHERE item = 'B00000'")), equal)
    show("different items", value(f"SELECT count(DISTINCT item) FROM {log}"), different)
    show("IN (items)", value(f"SELECT count(*) FROM {log} WHERE item IN (SELECT item FROM items)"), known)
typed = "read_json('100.jsonl', columns = {item: 'VARCHAR'})"
show("columns = {item: 'VARCHAR'}", value(f"SELECT count(*) FROM {typed} WHERE item = 'B00000'"), 7_998)
show("item ->> '$'", value("SELECT count(*) FROM read_json('100.jsonl') WHERE item ->> '$' = 'B00000'"), 7_998)
show("Arrow", outcome(lambda: pyarrow.json.read_json("100.jsonl")), "ArrowInvalid")
raise SystemExit(changed > 0)
PYTHON
echo "as described"
