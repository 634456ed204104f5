"""The anthropic SDK for Python on /v1/messages: messages, streams and their helper."""

from typing import Any

import pytest
from anthropic import Anthropic, BadRequestError

from clients.talk import ENOUGH, SYSTEM, USER, assert_capped, assert_uncapped
from servers import Server

pytestmark = pytest.mark.engine

MESSAGE: dict[str, Any] = {"model": "demo", "system": SYSTEM, "messages": USER, "max_tokens": ENOUGH,
                           "extra_body": {"temperature": 0}}  # fmt: skip


@pytest.fixture(scope="module")
def client(server: Server) -> Anthropic:
    return Anthropic(base_url=server.base, api_key="none", max_retries=0)


def test_a_message_has_the_object(client: Anthropic) -> None:
    message: Any = client.messages.create(**MESSAGE)
    assert_capped(message.content[0].text, message.mooring)
    assert message.model_extra["mooring"] == message.mooring


def test_the_message_delta_of_a_stream_has_the_object(client: Anthropic) -> None:
    events: list[Any] = list(client.messages.create(**MESSAGE, stream=True))
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]
    assert [event.type for event in events if "mooring" in (event.model_extra or {})] == ["message_delta"]
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert_capped(text, events[-2].mooring)


def test_the_stream_helper_puts_the_message_together_and_shows_the_object_in_its_event(client: Anthropic) -> None:
    """Its final message leaves out what it does not know; the events keep it."""
    with client.messages.stream(**MESSAGE) as stream:
        told = [event.model_extra["mooring"] for event in stream if "mooring" in (event.model_extra or {})]
        final: Any = stream.get_final_message()
    assert final.stop_reason == "end_turn" and len(told) == 1
    assert_capped(final.content[0].text, told[0])


def test_the_header_says_the_profile_and_the_models_name_chooses_it(client: Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**MESSAGE | {"model": "demo:off"})
    message: Any = raw.parse()
    assert raw.headers["X-Mooring-Profile"] == "off"
    assert_uncapped(message.content[0].text, message.mooring)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_profile_is_a_bad_request_with_a_message(client: Anthropic, stream: bool) -> None:
    with pytest.raises(BadRequestError, match="choose one of off, gentle, strong"):
        client.messages.create(**MESSAGE, stream=stream, extra_headers={"X-Mooring-Profile": "nope"})
