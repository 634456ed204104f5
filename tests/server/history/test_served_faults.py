"""A served model whose database goes away, and whose clients do: no answer fails for it, and none is missing."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from histories import eventually
from mooring_server.history.location import open_store
from mooring_server.history.queries import Filter
from mooring_server.history.store import Store
from mooring_server.sessions import normalised
from postgres import Postgres
from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]
CLIENTS = 4


@pytest.fixture(scope="module")
def served(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Store]]:
    """A server that was started while its database was away."""
    location = postgres.database()
    store = open_store(location)
    assert store is not None
    postgres.stop()
    with Server(["demo", "--history", location], tmp_path_factory.mktemp("faults") / "log") as running:
        try:
            running.wait_until_ready()
            assert say(running, session_id="early").status_code == 200
        finally:
            postgres.start()
        eventually(lambda: "takes turns again" in running.log)
        yield running, store


def say(server: Server, **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Who are you?"}]
    body = {"model": "demo", "messages": messages, "max_tokens": 8, "temperature": 0} | more
    return httpx.post(f"{server.base}/v1/chat/completions", json=body, timeout=60)


def responses(store: Store, session: str) -> list[str]:
    return [turn["response"] for turn in store.turns(Filter(session=session), 0, 10**6)]


def test_an_answer_from_before_the_database_was_there_is_kept(served: tuple[Server, Store]) -> None:
    server, store = served
    eventually(lambda: len(responses(store, "early")) == 1)
    assert "does not answer" in server.log and "Traceback" not in server.log


def test_a_database_restarted_under_live_requests_fails_no_answer_and_loses_none(
    served: tuple[Server, Store], postgres: Postgres
) -> None:
    server, store = served
    answers: list[httpx.Response] = []
    ending = threading.Event()

    def talk() -> None:
        while not ending.is_set():
            answers.append(say(server, session_id="live"))

    def more_answers(count: int) -> None:
        wanted = len(answers) + count
        eventually(lambda: len(answers) >= wanted, 120)

    clients = [threading.Thread(target=talk) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        more_answers(20)
        outages = server.log.count("takes no turns")
        postgres.stop("immediate")
        try:
            more_answers(20)
            eventually(lambda: server.log.count("takes no turns") == outages + 1)
            assert httpx.get(f"{server.base}/v1/mooring/sessions", timeout=30).status_code == 503
        finally:
            postgres.start()
        more_answers(20)
    finally:
        ending.set()
        for client in clients:
            client.join()
    assert {answer.status_code for answer in answers} == {200}
    said = sorted(answer.json()["id"] for answer in answers)
    assert len(said) == len({*said}) >= 60
    eventually(lambda: len(responses(store, "live")) >= len(said))
    assert sorted(responses(store, "live")) == said
    metrics = httpx.get(f"{server.base}/metrics").text
    assert "\nmooring_history_rows_lost_total 0.0\n" in metrics


def test_a_client_that_hangs_up_in_mid_stream_leaves_a_turn_that_says_so(served: tuple[Server, Store]) -> None:
    server, store = served
    body = {"model": "demo", "messages": [{"role": "user", "content": "Tell."}], "max_tokens": 1500, "stream": True,
            "ignore_eos": True, "session_id": "gone"}  # fmt: skip
    with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=body, timeout=60) as response:
        frames = (line for line in response.iter_lines() if line.startswith("data: {"))
        heard = [json.loads(next(frames).removeprefix("data: ")) for _ in range(20)]
    eventually(lambda: len(responses(store, "gone")) == 1)
    (turn,) = store.trajectory("gone", 9)
    assert (turn["response"], bool(turn["finished"])) == (heard[0]["id"], False)
    assert 0 < turn["measured_tokens"] <= turn["tokens"] < 1500 and turn["drift"] is not None
    time.sleep(1.0)
    assert len(responses(store, "gone")) == 1, "it is told once"


@pytest.mark.parametrize("request_id", ["\x00", "x" * 1_000_000, "<b>"], ids=["nul", "long", "html"])
def test_an_id_that_a_client_chose_is_kept_without_a_failure(served: tuple[Server, Store], request_id: str) -> None:
    server, store = served
    session = f"chosen {request_id[0]!r}"
    answer = say(server, session_id=session, request_id=request_id)
    assert answer.status_code == 200
    eventually(lambda: len(responses(store, session)) == 1)
    assert responses(store, session) == [normalised(f"chatcmpl-{request_id}")]


def test_the_log_of_all_this_holds_no_traceback(served: tuple[Server, Store]) -> None:
    server, _ = served
    assert "Traceback" not in server.log and "is lost" not in server.log
