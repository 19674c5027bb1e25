"""Published logs as downloaded, in miniature: recognised, and read with their side files beside."""

import pytest

from src.dataset.ingest.detect_format import choose_format
from src.dataset.ingest.known_logs import KNOWN_LOGS
from src.io.errors import UserError
from tests.support import raw_reading
from tests.support.known_miniatures import LOGS, download


@pytest.mark.parametrize("log", LOGS)
def test_a_known_log_is_recognised_and_read_as_downloaded(tmp_path, log):
    name, _, parsed, events = raw_reading.read(download(tmp_path / "raw", log), strd_ym="201411")
    assert name == log.split()[0]
    assert events == LOGS[log][1]
    assert (parsed.rows, parsed.rejected) == (len(events), {})


def test_each_known_log_has_a_miniature_or_a_test_of_its_own():
    elsewhere = {"amazon2014", "amazon2018", "douban"}  # test_formats.py
    assert {log.split()[0] for log in LOGS} | elsewhere == set(KNOWN_LOGS)


def test_a_table_that_is_not_the_publishers_is_not_passed_over(tmp_path):
    folder = download(tmp_path / "raw", "hm")
    (folder / "more_transactions.csv").write_text("user_id,item_id,domain,unix_time\n")
    with pytest.raises(UserError, match=r"looks like table, transactions_train\.csv like hm"):
        choose_format(str(folder), "auto")


FLAGS = {
    "a genre of MovieLens": (
        "movielens 25M",
        {"domain_from": "movies.csv:movieId:genres:|"},
        None,  # film 296 has no row in the miniature
    ),
    "the group of an article": (
        "hm", {"domain_from": "articles.csv:article_id:index_group_name"}, ["Ladieswear"],
    ),
    "the first category of a business": (
        "yelp",
        {"domain_from": "yelp_academic_dataset_business.json:business_id:categories:,"},
        ["Doctors"],
    ),
    "purchases of Taobao": ("taobao", {"events": ("buy",)}, ["taobao"]),
    "a category of Taobao": ("taobao", {"domain_col": "category"}, ["2520377", "2520771"]),
    "orders of OTTO": ("otto", {"events": ("orders", "carts")}, ["otto", "otto"]),
    "good ratings of Goodreads": ("goodreads", {"min_rating": 5.0}, ["comics_graphic", "poetry"]),
    "ratings of Amazon": ("amazon2023 0core rating_only", {"min_rating": 5.5}, None),
    "clicks of KuaiRand": ("kuairand", {"min_rating": 1.0}, ["1"]),
    "the genre of a listener's artist": ("lastfm 1K", {"item_col": "artid"}, ["lastfm", "lastfm"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAGS)
def test_flags_select_and_describe_the_events_of_a_known_log(tmp_path, case):
    log, flags, domains = FLAGS[case]
    folder = download(tmp_path / "raw", log)
    if domains is None:
        with pytest.raises(UserError, match=r"can(not)? be used"):
            raw_reading.read(folder, **flags)
    else:
        assert [domain for _, _, domain, _ in raw_reading.read(folder, **flags)[3]] == domains


@pytest.mark.nightly
def test_spark_reads_known_logs_alike(tmp_path, spark):
    for log, (_, expected) in LOGS.items():
        folder = download(tmp_path / log.replace(" ", "_"), log)
        _, _, parsed, events = raw_reading.read_with(spark, folder, strd_ym="201411")
        assert events == expected, log
        assert (parsed.rows, parsed.rejected) == (len(events), {}), log
