"""Who names a session, and what becomes of a name that nobody should trust."""

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from mooring_axes.errors import CannotServe
from mooring_server.conversation import Place, spoken
from mooring_server.sessions import ALIASES_VARIABLE, KEPT, KEY_VARIABLE, Responses, Sessions, normalised


@pytest.mark.parametrize("kept", ["a", "user-7/chat 3", "x" * 128, "Küste", "'; DROP TABLE turns; --", "<script>", "0"])
def test_a_short_printable_id_is_kept_as_it_is(kept: str) -> None:
    assert normalised(kept) == kept


@pytest.mark.parametrize(
    "odd", ["x" * 129, "x" * 1_000_000, "a\nb", "a\x00", "\x1b[31m", "\u202eabc", "\ud800", "a\u2028"]
)
def test_any_other_id_is_hashed_and_two_of_them_stay_apart(odd: str) -> None:
    found = normalised(odd)
    assert found.startswith("sha256:") and len(found) == 71 and found.isprintable()
    assert found == normalised(odd) != normalised(odd + "x")


@pytest.mark.parametrize("nothing", ["", " ", "\n\t", None, 7, ["a"], {"a": "b"}])
def test_what_is_no_id_is_none(nothing: Any) -> None:
    assert normalised(nothing) == ""


def alias(request: dict[str, Any], headers: dict[str, str] | None = None, **environment: str) -> str:
    return Sessions.of(environment, "m").alias(SimpleNamespace(**request), Headers(headers or {}))


def test_other_tools_names_are_known_in_their_order() -> None:
    assert alias({"metadata": {"session_id": "a", "conversation_id": "b"}}) == "a"
    assert alias({"metadata": {"conversation_id": "b"}, "litellm_session_id": "c"}) == "b"
    assert alias({"litellm_session_id": "c"}) == "c"
    assert alias({"litellm_session_id": "c"}, {"helicone-session-id": "d"}) == "d"
    assert alias({"metadata": {"session_id": "x" * 200}}).startswith("sha256:")


@pytest.mark.parametrize(
    "metadata", [None, "a", 7, ["session_id"], {"session_id": None}, {"session_id": {"a": "b"}}, {}]
)
def test_what_names_nothing_is_passed_over(metadata: Any) -> None:
    assert alias({"metadata": metadata}) == ""
    assert alias({"metadata": metadata, "litellm_session_id": "c"}) == "c"


def test_the_operator_names_other_places() -> None:
    named = {ALIASES_VARIABLE: "header:X-Chat,extra.deep.id"}
    assert alias({"metadata": {"session_id": "a"}}, **named) == ""
    assert alias({"extra": {"deep": {"id": "e"}}}, **named) == "e"
    assert alias({"extra": {"deep": {"id": "e"}}}, {"X-Chat": "h"}, **named) == "h"
    assert alias({"litellm_session_id": "c"}, **{ALIASES_VARIABLE: ""}) == "", "none at all"


@pytest.mark.parametrize("bad", ["header:", "metadata.", ".a", "a b", "header:X Y", "ä", "a..b"])
def test_a_place_that_can_hold_nothing_is_refused(bad: str) -> None:
    with pytest.raises(CannotServe, match="header:NAME"):
        Sessions.of({ALIASES_VARIABLE: bad}, "m")


def test_a_key_of_any_length_is_taken_and_changes_every_session() -> None:
    request = SimpleNamespace(messages=[{"role": "user", "content": "hi"}])
    keys = ["", "a", "b" * 1000]
    found = [Sessions.of({KEY_VARIABLE: key}, "m").conversation(request, {}) for key in keys]
    assert len({each.answered(()).session for each in found if each is not None}) == 3


def test_a_response_that_is_named_instead_of_said_again_is_gone_on_from() -> None:
    server, responses = Sessions("m"), Responses()
    places, turns = [], []
    for i in range(4):
        request = SimpleNamespace(
            input=f"question {i}", store=True, previous_response_id=f"resp_{i - 1}" if i else None
        )
        before = responses.before(request)
        conversation = server.conversation(request, {}, before and before.place)
        assert conversation is not None
        places.append(conversation.answered(spoken("assistant", "same")))
        turns.append(1 + (before.turn if before else 0))
        responses.keep(request, f"resp_{i}", places[-1], turns[-1])
    assert turns == [1, 2, 3, 4] and len({place.session for place in places}) == 1
    assert [place.parent for place in places] == ["", *(place.node for place in places[:-1])]


def test_responses_are_kept_only_where_vllm_keeps_them_and_not_without_end() -> None:
    responses, place = Responses(), Place("s", "n", "")
    responses.keep(SimpleNamespace(store=False), "unkept", place, 1)
    responses.keep(SimpleNamespace(), "chat", place, 1)
    for i in range(KEPT + 5):
        responses.keep(SimpleNamespace(store=True), str(i), place, 1)
    known = [responses.before(SimpleNamespace(previous_response_id=i)) for i in ("unkept", "chat", "4", "5", None, 7)]
    assert [each is not None for each in known] == [False, False, False, True, False, False]
