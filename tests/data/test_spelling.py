"""`--strip` and `--fold_case`: ids and domains without blanks around them, or in lower case."""

import json
import unicodedata

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src.config.dataset_settings import DatasetSettings
from src.dataset.build import spelling
from src.dataset.store.spelling import as_written
from tests.support.data_logs import MONTH, card_of, make, random_log, sequences_of, write_log

MESSY = [
    (f"{' ' * (n % 3)}{'ann' if n % 2 else 'ANN'}{n % 4}", f"\u00a0I{n % 5}\t",
     ("Books", " books ")[n % 2], MONTH + n)
    for n in range(40)
]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "user", "item", "domain"),
    [
        ((), str, str, str),
        (("--strip",), str.strip, str.strip, str.strip),
        (("--fold_case",), str.lower, str.lower, str.lower),
        (("--strip", "--fold_case"), *(lambda text: text.strip().lower(),) * 3),
    ],
)
def test_ids_and_domains_without_blanks_or_case(tmp_path, flags, user, item, domain):
    quoted = [tuple(f'"{cell}"' if n < 3 else cell for n, cell in enumerate(row)) for row in MESSY]
    raw = write_log(tmp_path / "raw" / "e.csv", quoted)
    make(raw, tmp_path / "out", *flags)
    expected: dict[str, set] = {}
    for u, i, d, time in MESSY:
        expected.setdefault(user(u), set()).add((item(i), domain(d), time))
    events = {u: {event[:3] for event in own} for u, own in sequences_of(tmp_path / "out").items()}
    assert events == expected
    options = card_of(tmp_path / "out")["options"]
    assert (options["strip"], options["fold_case"]) == ("--strip" in flags, "--fold_case" in flags)
    same = write_log(
        tmp_path / "plain" / "e.csv",
        [(user(u), item(i).strip("\t"), domain(d), t) for u, i, d, t in MESSY],
    )
    if "--strip" in flags:
        make(same, tmp_path / "plain_out")
        assert card_of(tmp_path / "plain_out")["sha256"] == card_of(tmp_path / "out")["sha256"]


def test_domains_are_named_as_they_are_after_folding(tmp_path):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    make(raw, tmp_path / "out", "--fold_case", "--strip", "--domains", "BOOKS", "Été ", "books")
    assert list(card_of(tmp_path / "out")["domains"]) == ["books", "été"]


def test_a_folder_from_before_these_flags_is_reused_without_them(tmp_path, capsys):
    raw = write_log(tmp_path / "raw" / "e.csv", random_log())
    make(raw, tmp_path / "out")
    card = card_of(tmp_path / "out")
    del card["options"]["strip"], card["options"]["fold_case"], card["data_notes"]
    (tmp_path / "out" / "data_card.json").write_text(json.dumps(card))
    capsys.readouterr()
    make(raw, tmp_path / "out")
    assert "reusing" in capsys.readouterr().out


# --- the same in every engine -------------------------------------------------------------------


def every_letter() -> pa.Table:
    """Ids with every character that Unicode 3.2 knew: all versions of the engines know those."""
    known = unicodedata.ucd_3_2_0
    letters = [chr(code) for code in range(1, 0x30000) if known.category(chr(code))[0] != "C"]
    letters += list("\t\x0b\x0c\x1c\x1f\x85")
    texts = [f"{letter}a{letter}b {letter}" for letter in letters]
    return pa.table({"user_id": texts, "item_id": texts, "domain": texts})


@pytest.mark.parametrize("flags", [{"strip": True}, {"fold_case": True}])
def test_duckdb_spells_as_arrow_does(tmp_path, flags):
    check_spelling(ibis.duckdb.connect(), flags, tmp_path)


@pytest.mark.parametrize("flags", [{"strip": True}, {"fold_case": True}])
def test_spark_spells_as_arrow_does(spark, tmp_path, flags):
    check_spelling(spark.backend, flags, tmp_path)


def check_spelling(backend, flags, folder):
    letters = every_letter()
    numbered = letters.append_column("row", pa.array(range(len(letters))))
    pq.write_table(numbered, folder / "letters.parquet")
    settings = DatasetSettings(data_name="t", strd_ym="201401", **flags)
    table = backend.read_parquet(str(folder / "letters.parquet"))
    simple = spelling.simplified(table, settings).order_by("row").to_pyarrow()
    expected = letters["user_id"]
    expected = as_written(expected, settings.strip, settings.fold_case)
    for name in ("user_id", "item_id", "domain"):
        assert simple[name].to_pylist() == expected.to_pylist()
    assert expected.to_pylist() != letters["user_id"].to_pylist()
