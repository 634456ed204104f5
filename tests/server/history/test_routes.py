"""/v1/mooring/sessions over HTTP, on both kinds of history; no engine."""

import asyncio
import json
import threading
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from histories import append, record
from mooring_server.history.live import Live
from mooring_server.history.routes import Kept, Sessions, Trajectory, router
from mooring_server.history.shape import turn_object
from mooring_server.history.store import Store
from mooring_server.sessions import normalised

NASTY = ["'; DROP TABLE mooring_turns; --", "<script>alert(1)</script>", "a/b/../c", "50% ?#&=", "ünï", "x" * 128]


def application(store: Store | None, live: Live | None = None) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    app.state.mooring_history = Kept(store, live or Live())
    return app


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(application(store))


def sessions(client: TestClient, **query: Any) -> Any:
    return client.get("/v1/mooring/sessions", params=query).raise_for_status().json()


def test_sessions_are_told_in_pages(client: TestClient, store: Store) -> None:
    append(store, [record(session=f"s{i % 5}", at=1000.0 + i, drift=i / 10) for i in range(10)])
    page = sessions(client, limit=2)
    Sessions.model_validate(page, strict=True)
    assert page["sessions"][0] == {
        "session": "s4", "identity": "client", "model": "demo", "profile": "strong", "arm": "none",
        "first_at": 1004.0, "last_at": 1009.0, "turns": 2, "mean_drift": pytest.approx(0.65),
        "max_drift": 0.9, "last_drift": 0.9, "lifted_share": pytest.approx(1 / 3),
    }  # fmt: skip
    found = page["sessions"]
    while page["next"] is not None:
        page = sessions(client, limit=2, cursor=page["next"])
        found += page["sessions"]
    assert [session["session"] for session in found] == ["s4", "s3", "s2", "s1", "s0"]
    worst = sessions(client, order="drift", min_drift=0.75)["sessions"]
    assert [session["session"] for session in worst] == ["s4", "s3"]
    assert sessions(client, since=2000)["sessions"] == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=-1", "limit=1001", "limit=x", "cursor=x", "cursor=-1", "cursor=" + "x" * 501, "order=name",
        "since=x", "since=nan", "until=inf", "min_drift=-inf",
    ],
)  # fmt: skip
def test_bad_paging_is_refused_with_its_reason(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/mooring/sessions?{query}")
    assert 400 <= answer.status_code < 500
    assert query.split("=")[0] in answer.text


def test_a_session_is_told_turn_by_turn_with_its_branches(client: TestClient, store: Store) -> None:
    turns = [
        record(turn=1, node="a"),
        record(turn=2, node="b", parent="a"),
        record(turn=2, node="c", parent="a", finished=False),
        record(turn=3, node="d", parent="b", projection=None, drift=None, mean_lift=None, complete=False, layers={}),
    ]
    append(store, turns)
    told = client.get("/v1/mooring/sessions/s").raise_for_status().json()
    Trajectory.model_validate_json(json.dumps(told), strict=True)
    assert (told["session"], told["truncated"]) == ("s", False)
    expected = [turn_object(turn) | {"branch": branch} for turn, branch in zip(turns, [0, 0, 1, 0], strict=True)]
    assert told["turns"] == json.loads(json.dumps(expected))
    assert told["turns"][0]["layers"]["4"] == {"projection": 1 / 3, "lift": 1.25, "lifted_share": 0.5}


def test_a_very_long_session_is_cut_and_says_so(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_server.history.routes.TURNS_MOST", 3)
    append(store, [record(turn=i) for i in range(5)])
    told = client.get("/v1/mooring/sessions/s").json()
    assert told["truncated"] and [turn["turn"] for turn in told["turns"]] == [2, 3, 4]


@pytest.mark.parametrize("session", NASTY)
def test_an_id_is_looked_up_and_erased_as_it_is(client: TestClient, store: Store, session: str) -> None:
    append(store, [record(session=session), record(session="other")])
    url = f"/v1/mooring/sessions/{quote(session, safe='')}"
    assert client.get(url).json()["session"] == session
    assert client.delete(url).json() == {"session": session, "turns": 1}
    assert client.get(url).status_code == 404
    assert [one["session"] for one in sessions(client)["sessions"]] == ["other"]


def test_an_id_that_was_hashed_is_found_by_what_the_client_sent(client: TestClient, store: Store) -> None:
    sent = "long " * 100
    append(store, [record(session=normalised(sent))])
    assert client.get(f"/v1/mooring/sessions/{sent}").json()["session"].startswith("sha256:")
    assert client.delete(f"/v1/mooring/sessions/{sent}").json()["turns"] == 1


@pytest.mark.parametrize("session", ["unknown", "", "%00", "a%00b", "%F0%28", "x" * 60_000])
def test_a_session_that_is_unknown_is_not_found(client: TestClient, session: str) -> None:
    answer = client.get(f"/v1/mooring/sessions/{session}", follow_redirects=False)
    assert answer.status_code in (400, 404, 307)
    if session:
        assert len(answer.text) < 1000 and "session" in answer.text


def test_erasing_what_is_unknown_is_no_error(client: TestClient) -> None:
    assert client.delete("/v1/mooring/sessions/unknown").json() == {"session": "unknown", "turns": 0}
    assert client.delete("/v1/mooring/sessions/").status_code == 404


def test_without_a_history_the_reason_is_told() -> None:
    client = TestClient(application(None))
    for answer in (client.get("/v1/mooring/sessions"), client.get("/v1/mooring/sessions/s")):
        assert answer.status_code == 409 and "--history" in answer.json()["detail"]
    assert client.delete("/v1/mooring/sessions/s").status_code == 409


def test_a_history_that_is_away_is_said_and_nothing_of_it_told(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "connect", lambda readonly=False: 1 / 0)
    answer = client.get("/v1/mooring/sessions")
    assert answer.status_code == 503 and "division" not in answer.text
    assert "division by zero" in capfd.readouterr().err


def test_reads_are_few_at_a_time_and_the_loop_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    app, reading, most = application(store), 0, 0
    lock, go = threading.Lock(), threading.Event()
    connect = store.connect

    def slow(readonly: bool = False) -> Any:
        nonlocal reading, most
        with lock:
            reading, most = reading + 1, max(most, reading + 1)
        go.wait(20)
        with lock:
            reading -= 1
        return connect(readonly)

    monkeypatch.setattr(store, "connect", slow)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            asked = [asyncio.create_task(client.get("/v1/mooring/sessions")) for _ in range(20)]
            while reading < 4:
                await asyncio.sleep(0.01)
            for _ in range(50):  # the loop runs while four threads hang
                await asyncio.sleep(0.001)
            go.set()
            return [(await each).status_code for each in asked]

    assert asyncio.run(ask()) == [200] * 20
    assert most == 4
