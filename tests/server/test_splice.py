"""What is put into an answer's bytes can be taken out again, and nothing else has changed."""

import json
import random
from typing import Any

import pytest

from mooring_server.splice import ROUTES, into_body, into_frame

MEMBER = b'"mooring":{"profile":"a}b\\"","layers":{"3":{}}}'
CHAT = ROUTES["/v1/chat/completions"]
RESPONSES = ROUTES["/v1/responses"]
MESSAGES = ROUTES["/v1/messages"]


@pytest.mark.parametrize("body", [b'{"a":1}', b"{}", b'{"a":{"b":"}"}}', b'{ "a" : [1] }\n', '{"ä":"}☂"}'.encode()])
def test_a_member_goes_last_into_a_body(body: bytes) -> None:
    found = json.loads(into_body(body, MEMBER))
    assert found.pop("mooring")["profile"] == 'a}b"'
    assert found == json.loads(body)


@pytest.mark.parametrize("body", [b"null", b"", b"[1]", b'"}"'])
def test_a_body_that_is_no_object_passes_untouched(body: bytes) -> None:
    assert into_body(body, MEMBER) == body


def random_json(rng: random.Random, depth: int = 3) -> Any:
    text = "".join(rng.choices('abc{}"[]:,\\\n é☂', k=rng.randrange(12)))
    if depth == 0:
        return rng.choice([text, 1, None, True, -1.5])
    inner = [random_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    return rng.choice([inner, {f"{text}{i}": value for i, value in enumerate(inner)}, text])


def test_any_body_comes_back_when_the_member_is_cut_out() -> None:
    rng = random.Random(0)
    for _ in range(500):
        body = json.dumps({"x": random_json(rng), "y": random_json(rng)}, ensure_ascii=rng.random() < 0.5).encode()
        spliced = into_body(body, MEMBER)
        assert spliced.replace(b"," + MEMBER, b"") == body
        assert json.loads(spliced)["mooring"] == json.loads(b"{" + MEMBER + b"}")["mooring"]


def frame(data: dict[str, Any], event: str = "") -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def data_of(sent: bytes) -> Any:
    return json.loads(sent.partition(b"data: ")[2])


def test_the_frame_that_ends_an_answer_gets_it_wherever_it_stands_in_a_chunk() -> None:
    begin = frame({"choices": [{"delta": {"content": "}"}, "finish_reason": None}]})
    end = frame({"choices": [{"delta": {"content": '"finish_reason":"'}, "finish_reason": "stop"}]})
    usage = frame({"choices": [], "usage": {"total_tokens": 3}})
    sent = into_frame(begin + end + usage + b"data: [DONE]\n\n", CHAT.last, MEMBER)
    assert sent.replace(b"," + MEMBER, b"") == begin + end + usage + b"data: [DONE]\n\n"
    frames = sent.split(b"\n\n")
    assert [b"mooring" in f for f in frames] == [False, True, False, False, False]
    assert data_of(frames[1])["mooring"]["profile"] == 'a}b"'


@pytest.mark.parametrize("text", ['"finish_reason":"', "event: message_delta\n", "event: response.completed\n"])
def test_text_that_looks_like_the_end_is_not_the_end(text: str) -> None:
    sent = frame({"choices": [{"delta": {"content": text}, "finish_reason": None}]}, event="content_block_delta")
    assert not any(route.last in sent for route in ROUTES.values())


def test_responses_get_it_inside_their_response() -> None:
    sent = frame({"response": {"id": "r", "output": []}, "type": "response.completed"}, "response.completed")
    spliced = data_of(into_frame(sent, RESPONSES.last, MEMBER, RESPONSES.inner))
    assert spliced["response"].pop("mooring")["profile"] == 'a}b"'
    assert spliced == data_of(sent)
    assert data_of(into_frame(frame({"response": {}}, "response.completed"), RESPONSES.last, MEMBER, RESPONSES.inner))


def test_messages_get_it_in_their_delta() -> None:
    sent = frame({"type": "message_delta", "delta": {}, "usage": {}}, "message_delta")
    assert data_of(into_frame(sent, MESSAGES.last, MEMBER))["mooring"]["profile"] == 'a}b"'
