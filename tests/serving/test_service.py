"""The reference service: its answers are the lists of recommend.py from the same bundle."""

import asyncio
import http.client
import json
import queue
import re
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

import recommend
from src.serving import api
from src.serving.answers import Answerer
from src.serving.batches import Batcher
from src.serving.item_search import ItemSearch
from src.serving.questions import (
    BODY,
    EVENT,
    JSON_SCHEMA,
    LATEST,
    MAX_BODY,
    MAX_EVENTS,
    BadRequest,
    QuestionReader,
)
from tests.support.command_runs import DOMAINS
from tests.support.served_lists import events_of, lists, paths_of
from tests.support.services import SERVICE, Service


def bodies_of(events, **more) -> dict[str, dict]:
    """{user_id: body that has their events}"""
    renamed = events.rename(columns={"unix_time": "time"})
    names = ["item_id", "domain", "time"]
    return {
        user: {"events": part[names].to_dict("records"), **more}
        for user, part in renamed.groupby("user_id")
    }


def assert_answers(answers: dict[str, dict], table) -> None:
    """{user_id: answer} has the lists of a table, with scores equal to 1e-4."""
    expected, made_by = lists(table), paths_of(table)
    assert len(expected) == sum(len(answer["lists"]) for answer in answers.values())
    for user, answer in answers.items():
        for listed in answer["lists"]:
            key = user, listed["domain"]
            assert [item["item_id"] for item in listed["items"]] == [i for i, _ in expected[key]]
            scores = [item["score"] for item in listed["items"]]
            assert scores == pytest.approx([score for _, score in expected[key]], abs=1e-4)
            assert listed["path"] == made_by[key]


def assert_same_answers(actual: list[dict], expected: list[dict]) -> None:
    """The same items, paths and counts, with scores equal to 1e-5."""

    def without_scores(answers):
        return re.sub(r'"score": [^,}]*', "", json.dumps(answers))

    def scores(answers):
        parts = [listed["items"] for answer in answers for listed in answer["lists"]]
        return [item["score"] for items in parts for item in items]

    assert without_scores(actual) == without_scores(expected)
    np.testing.assert_allclose(scores(actual), scores(expected), atol=1e-5)


def reader_of(bundle) -> QuestionReader:
    return QuestionReader(bundle, exclude_seen=True)


def answered(bundle, bodies: list[dict], path: str = "auto") -> list[dict]:
    """Answers to all bodies in one batch."""
    read = reader_of(bundle).read
    return Answerer(bundle, path).answers([read(json.dumps(body).encode()) for body in bodies])


@pytest.mark.parametrize(
    ("name", "path"),
    [("both", "auto"), ("both", "single"), ("both", "blend"), ("separate", "auto")],
)
def test_an_answer_is_the_list_of_recommend_py(data, opened, name, path):
    _, bundle = opened[name]
    events = events_of(data, 20)
    events.loc[events.user_id == "g00003", "item_id"] = "unknown"
    bodies = bodies_of(events, k=5, exclude_seen=True, now=bundle.end + 86_400)
    answers = dict(zip(bodies, answered(bundle, list(bodies.values()), path), strict=True))
    table = api.recommend(
        bundle, events, k=5, exclude_seen=True, path=path, now=bundle.end + 86_400
    )
    assert_answers(answers, table)
    assert {listed["path"] for listed in answers["g00003"]["lists"]} == {"recent"}
    assert answers["g00003"]["skipped_events"] == sum(events.user_id == "g00003")
    assert answers["g00003"]["context_events"] == 0


def test_a_user_with_an_id_has_events_of_one_time_in_the_order_of_the_log(data, opened):
    """Without one, in an order that is meaningless too, but another one."""
    _, bundle = opened["both"]
    events = events_of(data, 20).assign(unix_time=1_700_000_000)
    bodies = bodies_of(events, k=5, exclude_seen=True)
    named = {user: body | {"user_id": user} for user, body in bodies.items()}
    answers = dict(zip(named, answered(bundle, list(named.values())), strict=True))
    assert_answers(answers, api.recommend(bundle, events, k=5, exclude_seen=True))
    assert answered(bundle, list(bodies.values())) != list(answers.values())


def mixed_bodies(data, bundle) -> list[dict]:
    """Bodies that ask for different things."""
    bodies = list(bodies_of(events_of(data, 24)).values())
    for number, body in enumerate(bodies):
        body["k"] = 1 + number % 7
        body["domains"] = list(DOMAINS[: number % 4])
        body["exclude_seen"] = (True, False, None)[number % 3]
        body["now"] = (None, bundle.end, bundle.end + number * 86_400)[number % 3]
        body["events"] = body["events"][: number // 2]
    return bodies


@pytest.mark.parametrize("path", ["auto", "blend"])
def test_a_batch_answers_as_one_at_a_time(data, opened, path):
    _, bundle = opened["both"]
    bodies = mixed_bodies(data, bundle)
    together = answered(bundle, bodies, path)
    assert_same_answers(together, [answered(bundle, [body], path)[0] for body in bodies])
    for body, answer in zip(bodies, together, strict=True):
        names = [listed["domain"] for listed in answer["lists"]]
        assert sorted(names) == (sorted(body["domains"]) or list(DOMAINS))
        assert all(len(listed["items"]) == body["k"] for listed in answer["lists"])


def event(**changed) -> dict:
    return {"item_id": "A-0001", "domain": "A", "time": 1_700_000_000} | changed


def body(**changed) -> bytes:
    return json.dumps({"events": [event()], **changed}).encode()


BAD = {
    "no JSON": (b"{", 400, "no JSON"),
    "no text": (b"\xff\xfe", 400, "no JSON"),
    "not a number": (b'{"events": [], "k": NaN}', 400, "no JSON"),
    "endless digits": (b'{"events": [], "k": ' + b"9" * 5000 + b"}", 400, "no JSON"),
    "deep": (b"[" * 100_000, 400, "no JSON"),
    "a list": (b"[]", 422, "the top level must be an object"),
    "no events": (b"{}", 422, "'events' is missing"),
    "another key": (body(users=1), 422, "1 unknown key"),
    "another key of an event": (body(events=[event(user="x")]), 422, "an event has 1 unknown"),
    "an event of text": (body(events=["A-0001"]), 422, "must be an object"),
    "no item": (body(events=[event(item_id="")]), 422, "text of 1 to 200 characters"),
    "a long id": (body(events=[event(item_id="x" * 201)]), 422, "text of 1 to 200 characters"),
    "half a character": (body(events=[event(item_id="\ud800")]), 422, "text of 1 to 200"),
    "a number as an id": (body(events=[event(item_id=7)]), 422, "text of 1 to 200 characters"),
    "a time beyond": (body(events=[event(time=LATEST + 1)]), 422, "whole seconds since 1970"),
    "a time of text": (body(events=[event(time="2020")]), 422, "whole seconds since 1970"),
    "a part of a second": (body(events=[event(time=1.5)]), 422, "whole seconds since 1970"),
    "true as a time": (body(events=[event(time=True)]), 422, "whole seconds since 1970"),
    "too many events": (body(events=[event()] * (MAX_EVENTS + 1)), 422, "more than 1000 entries"),
    "k of 0": (body(k=0), 422, "'k' must be a whole number from 1 to 1000"),
    "an unknown domain": (body(domains=["Z"]), 422, "it has A, B, C"),
    "domains of text": (body(domains="A"), 422, "'domains' must be a list"),
    "a number as a user": (body(user_id=7), 422, "'user_id' must be text of 1 to 200"),
    "an earlier time": (body(now=0), 422, "'now' must be at least"),
    "seen as text": (body(exclude_seen="yes"), 422, "'exclude_seen' must be true or false"),
    "too large": (b" " * (MAX_BODY + 1), 413, "more than 1048576 bytes"),
}


@pytest.mark.parametrize("form", BAD)
def test_a_bad_body_is_refused_in_one_sentence(opened, form):
    content, status, sentence = BAD[form]
    with pytest.raises(BadRequest, match=re.escape(sentence)) as refused:
        reader_of(opened["both"][1]).read(content)
    assert refused.value.status == status
    assert "\n" not in str(refused.value)


def test_the_schema_for_clients_is_that_of_the_check():
    events = JSON_SCHEMA["properties"]["events"]
    assert JSON_SCHEMA["properties"].keys() == BODY.keys()
    assert events["items"]["properties"].keys() == EVENT.keys()
    assert events["items"]["required"] == list(EVENT)


def test_questions_in_flight_are_answered_together():
    sizes = []

    def answers(questions):
        sizes.append(len(questions))
        time.sleep(0.01)
        if "bad" in questions:
            raise ValueError("bad")
        return [question * 2 for question in questions]

    async def ask_all():
        batcher = Batcher(answers, size=16)
        task = asyncio.create_task(batcher.run())
        numbers = await asyncio.gather(*(batcher.ask(number) for number in range(100)))
        faulty = await asyncio.gather(
            batcher.ask(1), batcher.ask("bad"), batcher.ask(3), return_exceptions=True
        )
        task.cancel()
        return numbers, faulty

    numbers, faulty = asyncio.run(ask_all())
    assert numbers == [number * 2 for number in range(100)]
    assert sizes[:7] == [16] * 6 + [4]
    assert faulty[0] == 2 and faulty[2] == 6
    assert isinstance(faulty[1], ValueError)


def test_items_are_found_by_a_part_of_their_id(opened):
    _, bundle = opened["both"]
    search = ItemSearch(bundle)
    events = [row["events"] for row in search.best("A", "")]
    assert events == sorted(events, reverse=True) and len(events) == 12
    assert {row["item_id"] for row in search.best("B", "b-000")} == {f"B-000{i}" for i in range(10)}
    assert search.best("B", "A-") == []
    with pytest.raises(BadRequest, match="must be one of A, B, C"):
        search.best("Z", "")


def test_the_page_loads_nothing_from_elsewhere():
    page = (SERVICE / "page.html").read_text()
    assert not re.search(r'//[a-z]+\.|src=|href="(?!data:)|@import', page)


def test_the_service_answers_refuses_and_stops(data, exported, start, tmp_path):
    service = start("--window_ms=1500")
    address = service.address
    bundle, events = exported["both"][1], events_of(data, 20)
    events.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "lists.parquet"
    recommend.main(
        [f"--run={bundle}", f"--events={tmp_path / 'new.csv'}", f"--out={out}", "--device=cpu"]
    )
    # recommend.py makes all lists as of one time, which the service must be told
    now = max(api.open_bundle(bundle).end, int(events.unix_time.max()) + 1)
    bodies = bodies_of(events, now=now)
    with ThreadPoolExecutor(20) as pool:  # one batch
        contents = [json.dumps(body).encode() for body in bodies.values()]
        replies = list(pool.map(service.posted, contents))
    assert {status for status, _ in replies} == {200}
    answers = dict(zip(bodies, (answer for _, answer in replies), strict=True))
    assert_answers(answers, pq.read_table(out))

    for content, status, sentence in BAD.values():
        found, answer = service.posted(content)
        assert found == status
        assert sentence in answer["error"] and list(answer) == ["error"]
    with urllib.request.urlopen(f"{address}/model_card") as response:
        assert response.read() == (bundle / "model_card.md").read_bytes()
    with urllib.request.urlopen(f"{address}/items?domain=A&text=0001") as response:
        assert [row["item_id"] for row in json.load(response)] == ["A-0001"]
    with urllib.request.urlopen(f"{address}/openapi.json") as response:
        schema = json.load(response)
    assert {"/recommend", "/health", "/model_card", "/items"} <= schema["paths"].keys()
    with urllib.request.urlopen(address) as response:
        assert response.read() == (SERVICE / "page.html").read_bytes()

    replies = []
    asking = threading.Thread(target=lambda: replies.append(service.posted(contents[0])))
    asking.start()
    time.sleep(0.5)  # it waits for others to share a batch with
    service.process.send_signal(signal.SIGTERM)
    asking.join()
    assert replies[0][0] == 200
    assert_same_answers([replies[0][1]], [answers[next(iter(bodies))]])
    assert service.process.wait(timeout=60) == 0
    assert service.log.read_text().splitlines() == [f"serving {bundle} at {address}", "stopped"]


IN_FLIGHT = 32
HANGS_S = 900  # what takes longer is no answer; restarts beside other work are within it


def ask_until_answered(port: int, content: bytes, happened: queue.SimpleQueue) -> tuple[int, dict]:
    """Status and answer, from whichever service gives one; each request that was sent whole and
    each answer is put into `happened`."""
    end = time.monotonic() + HANGS_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANGS_S)
        try:
            connection.request("POST", "/recommend", content)
            happened.put("sent")
            response = connection.getresponse()
            answer = response.status, json.loads(response.read())
            happened.put("answered")
            return answer
        except (OSError, http.client.HTTPException):  # no service there, or half an answer
            assert time.monotonic() < end
            time.sleep(0.05)
        finally:
            connection.close()


def test_a_service_that_is_killed_under_load_gives_no_wrong_answer(data, opened, start):
    """Once with all requests in flight, once between answers; clients repeat what was lost."""
    service: Service = start("--window_ms=300")
    bundle = opened["both"][1]
    bodies = [
        body | {"exclude_seen": number % 2 == 0}
        for number, body in enumerate(mixed_bodies(data, bundle))
    ]
    expected = answered(bundle, bodies) * 6
    contents = [json.dumps(body).encode() for body in bodies] * 6
    happened: queue.SimpleQueue[str] = queue.SimpleQueue()
    seen = []
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        replies = [
            pool.submit(ask_until_answered, service.port, content, happened) for content in contents
        ]
        for what, count in (("sent", IN_FLIGHT), ("answered", IN_FLIGHT)):
            while count:
                seen.append(happened.get(timeout=HANGS_S))
                count -= seen[-1] == what
            service.kill()
            service.start()
        answers = [reply.result() for reply in replies]
    assert {status for status, _ in answers} == {200}
    assert_same_answers([answer for _, answer in answers], expected)
    seen += [happened.get() for _ in range(happened.qsize())]
    lost = seen.count("sent") - len(contents)
    assert seen.count("answered") == len(contents) and lost > 0
