"""The id of a response is what a client made of it: vLLM takes `request_id` and X-Request-Id as they come."""

import json
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from histories import append
from mooring_server.conversation import Place
from mooring_server.history.shape import turn_object, turn_row
from mooring_server.history.store import Store
from mooring_server.record import Record
from mooring_server.said import Said
from mooring_server.sessions import LONGEST, Responses, Sessions
from mooring_server.splice import CHAT
from mooring_server.turn import Turn

HASHED = ["\x00", "a\x00b", "x" * 1_000_000, "line\nbreak", "\u2028", "\x1b[2J", "\u202egnp"]
KEPT = ["1", "<script>alert(1)</script>", "'; DROP TABLE mooring_turns; --", "%s :s ?", "船"]


def answered(request_id: str) -> Record:
    """What is told of a chat whose client chose that id."""
    meter: Any = SimpleNamespace(sessions=Sessions("m"), responses=Responses())
    turn, said = Turn(CHAT, Headers(), meter), Said("chat")
    turn.profile, turn.number, turn.request = "strong", 1, SimpleNamespace(messages=[{"role": "user", "content": "a"}])
    said.body(json.dumps({"id": f"chatcmpl-{request_id}", "choices": [{"message": {"content": "b"}}]}).encode())
    (record,) = turn.records([], said, finished=True)
    return record


@pytest.mark.parametrize("request_id", HASHED, ids=lambda odd: repr(odd[:9]))
def test_an_id_that_is_long_or_odd_is_hashed_and_no_history_stumbles_over_it(store: Store, request_id: str) -> None:
    told, other = answered(request_id), answered(request_id + "x")
    assert told.response.startswith("sha256:") and len(told.response) <= LONGEST and told.response != other.response
    append(store, [told, other])
    assert [turn_row(row) for row in store.trajectory(told.session, 9)] == [turn_object(told), turn_object(other)]


@pytest.mark.parametrize("request_id", KEPT)
def test_any_other_is_kept_as_it_is(store: Store, request_id: str) -> None:
    told = answered(request_id)
    append(store, [told])
    assert [row["response"] for row in store.trajectory(told.session, 9)] == [f"chatcmpl-{request_id}"]


def test_rows_that_wait_are_small_whatever_clients_call_them(store: Store) -> None:
    tracemalloc.start()
    rows = [store.row(answered(f"{number:01000000d}"), 1, number) for number in range(200)]
    waiting, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert waiting / len(rows) < 2000


def test_a_response_is_gone_on_from_by_the_id_that_its_client_gave_it() -> None:
    responses, long = Responses(), "resp_" + "x" * 1_000_000
    responses.keep(SimpleNamespace(store=True), long, Place("s", "n", ""), 1)
    found = responses.before(SimpleNamespace(previous_response_id=long))
    assert found is not None and found.turn == 1
    assert responses.before(SimpleNamespace(previous_response_id=long + "x")) is None
    assert max(map(len, responses._kept)) <= LONGEST
