"""A real server of one and of two API processes: what replies say is what is kept, to the last answer."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from histories import eventually
from mooring_server.history.location import open_store
from mooring_server.history.queries import Filter
from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]
KEY = {"Authorization": "Bearer secret"}
NUMBERS = ("turn", "projection", "drift", "mean_lift", "measured_tokens", "complete")
SESSIONS = "/v1/mooring/sessions"


@pytest.fixture(scope="module", params=[1, 2])
def server(request: pytest.FixtureRequest, file: Path) -> Iterator[Server]:
    # vLLM kills several API processes at once, unless it is told to wait.
    several = [] if request.param == 1 else ["--api-server-count", str(request.param), "--shutdown-timeout", "10"]
    with Server(["demo", *several, "--api-key", "secret", "--history", str(file)], file.parent / "log") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "history.sqlite"


def say(server: Server, *words: str, **more: Any) -> Any:
    """The whole reply; every call is a connection of its own, which either process may take."""
    roles = ("user", "assistant") * len(words)
    messages = [{"role": role, "content": text} for role, text in zip(roles, words, strict=False)]
    body = {"model": "demo", "messages": messages, "max_tokens": 8, "temperature": 0} | more
    answer = httpx.post(f"{server.base}/v1/chat/completions", json=body, headers=KEY, timeout=60)
    return answer.raise_for_status().json()


def text(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def ask(server: Server, path: str, method: str = "GET", **query: Any) -> httpx.Response:
    return httpx.request(method, f"{server.base}{path}", params=query, headers=KEY, timeout=30)


def turns(server: Server, session: str, count: int) -> list[Any]:
    """Of the session, once so many have been kept."""
    eventually(lambda: len(ask(server, f"{SESSIONS}/{session}").json().get("turns", [])) == count)
    return list(ask(server, f"{SESSIONS}/{session}").json()["turns"])


def test_a_conversation_is_kept_with_the_numbers_of_its_replies(server: Server) -> None:
    first = say(server, "Who are you?", session_id="talk")
    second = say(server, "Who are you?", text(first), "And now?", session_id="talk")
    edited = say(server, "Who are you?", text(first), "Or rather: why?", session_id="talk", model="demo:off")
    third = say(server, "Who are you?", text(first), "And now?", text(second), "Go on.", session_id="talk")
    kept = {turn["response"]: turn for turn in turns(server, "talk", 4)}
    for reply in (first, second, edited, third):
        turn, said = kept[reply["id"]], reply["mooring"]
        assert [turn[name] for name in NUMBERS] == pytest.approx([said[name] for name in NUMBERS], rel=1e-5)
        assert turn["layers"].keys() == said["layers"].keys()
        assert (turn["profile"], turn["identity"], turn["finished"]) == (said["profile"], "client", True)
    assert kept[second["id"]]["parent"] == kept[edited["id"]]["parent"] == kept[first["id"]]["node"]
    branches = {name: kept[reply["id"]]["branch"] for name, reply in (("1", first), ("2", second), ("3", third))}
    assert len({*branches.values()} | {kept[edited["id"]]["branch"]}) == 2
    listed = [row for row in ask(server, SESSIONS).json()["sessions"] if row["session"] == "talk"]
    assert {row["profile"]: row["turns"] for row in listed} == {"strong": 3, "off": 1}
    assert ask(server, f"{SESSIONS}/talk", "DELETE").json()["turns"] == 4


def test_a_session_is_erased_by_either_process(server: Server) -> None:
    for _ in range(4):
        say(server, "Remember me.", session_id="a/b <i>")
    turns(server, "a%2Fb%20%3Ci%3E", 4)
    assert ask(server, f"{SESSIONS}/a%2Fb%20%3Ci%3E", "DELETE").json()["turns"] == 4
    assert [ask(server, f"{SESSIONS}/a%2Fb%20%3Ci%3E").status_code for _ in range(6)] == [404] * 6


def test_a_listener_hears_turns_end(server: Server) -> None:
    with httpx.stream("GET", f"{server.base}/v1/mooring/turns/stream", headers=KEY, timeout=60) as response:
        heard = response.iter_lines()
        assert next(heard) == ": alive"
        said = {say(server, "Tell.", session_id="heard")["id"] for _ in range(12)}  # some by the process we listen to
        told = next(json.loads(line.removeprefix("data: ")) for line in heard if line.startswith("data: "))
        assert told["session"] == "heard" and told["response"] in said


def test_all_of_it_is_behind_the_key(server: Server) -> None:
    for method, path in (("GET", SESSIONS), ("GET", f"{SESSIONS}/x"), ("DELETE", f"{SESSIONS}/x"),
                         ("GET", "/v1/mooring/turns/stream")):  # fmt: skip
        assert httpx.request(method, server.base + path).status_code == 401


def test_bad_questions_are_refused_in_vllms_own_form(server: Server) -> None:
    for query in ({"limit": -1}, {"cursor": "x"}):
        answer = ask(server, SESSIONS, **query)
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert ask(server, f"{SESSIONS}/nobody").json()["error"]["message"].startswith("no turn of session 'nobody'")


def test_a_stop_loses_no_answer_and_open_streams_do_not_hold_it_up(server: Server, file: Path) -> None:
    said = {say(server, f"Say {i}.", session_id="last")["id"] for i in range(6)}
    with httpx.stream("GET", f"{server.base}/v1/mooring/turns/stream", headers=KEY, timeout=60) as response:
        assert next(response.iter_lines()) == ": alive"
        server.process.terminate()
        assert server.process.wait(20) is not None
    store = open_store(str(file))
    assert store is not None
    kept = {turn["response"] for turn in store.turns(Filter(session="last"), 0, 100)}
    assert kept == said and store.erase("last") == len(said)  # the next server goes on with this file
    assert not re.search("Traceback|turns are lost", server.log)
