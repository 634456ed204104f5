"""The openai SDK for Python: three endpoints, sync and async, streams and their helpers, tools, parsed answers."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel
from transformers import AutoTokenizer

from clients.talk import ENOUGH, PIRATE, assert_capped, assert_told, assert_uncapped
from mooring_axes import demo
from servers import Server

pytestmark = pytest.mark.engine

CHAT: dict[str, Any] = {"model": "demo", "messages": PIRATE, "temperature": 0, "max_tokens": ENOUGH}
RESPONSE: dict[str, Any] = {"model": "demo", "input": PIRATE, "temperature": 0, "max_output_tokens": ENOUGH}
NAMED_CHAT: Any = {"type": "function", "function": {"name": "weather"}}
NAMED_RESPONSE: Any = {"type": "function", "name": "weather"}


class Weather(BaseModel):
    city: Literal["Lima", "Oslo"]
    days: Literal[1, 2, 3]


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def no_blanks() -> dict[str, float]:
    """A logit bias: the demo never learnt JSON, whose grammar lets it write blanks for ever."""
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    blank = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).isspace()]
    return dict.fromkeys(map(str, blank), -100.0)


def told_in(parts: Sequence[Any]) -> Any:
    """The one `mooring` object of these parts of a stream."""
    (told,) = [part.model_extra["mooring"] for part in parts if "mooring" in (part.model_extra or {})]
    return told


# --- chat ----------------------------------------------------------------------------------------


def test_a_chat_completion_has_the_object_as_an_attribute_and_as_an_extra(client: OpenAI) -> None:
    answer: Any = client.chat.completions.create(**CHAT)
    assert_capped(answer.choices[0].message.content, answer.mooring)
    assert answer.model_extra["mooring"] == answer.mooring
    assert answer.mooring["turn"] == 1


def test_several_choices_have_an_object_each(client: OpenAI) -> None:
    answer: Any = client.chat.completions.create(**CHAT | {"temperature": 1}, n=3)
    assert [told["index"] for told in answer.mooring] == [choice.index for choice in answer.choices] == [0, 1, 2]


def test_every_chunk_of_a_stream_has_its_choice_and_the_last_one_the_object(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert [len(chunk.choices) for chunk in chunks] == [1] * len(chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert_capped("".join(chunk.choices[0].delta.content or "" for chunk in chunks), told_in(chunks[-1:]))
    assert told_in(chunks) == told_in(chunks[-1:])


def test_the_usage_chunk_stays_the_only_one_without_choices(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert [len(chunk.choices) for chunk in chunks] == [1] * (len(chunks) - 1) + [0]
    assert chunks[-1].usage is not None and "mooring" not in (chunks[-1].model_extra or {})
    assert_told(told_in(chunks), "strong")


def test_the_tokens_of_a_stream_come_in_chunks_that_are_there_anyway(client: OpenAI) -> None:
    stream = client.chat.completions.create(**CHAT, stream=True, extra_body={"vllm_xargs": {"mooring_tokens": True}})
    chunks: list[Any] = list(stream)
    assert [len(chunk.choices) for chunk in chunks] == [1] * len(chunks)
    told = [chunk.mooring for chunk in chunks if "mooring" in chunk.model_extra]
    indices = [index for part in told for index in part["tokens"]["index"]]
    assert len(told) > 1
    assert indices == list(range(told[-1]["measured_tokens"]))


def test_the_stream_helper_puts_the_answer_together_and_shows_the_object_in_its_chunk(client: OpenAI) -> None:
    """Its final completion leaves out what it does not know; the chunk events keep it."""
    with client.chat.completions.stream(**CHAT) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        assert_capped(stream.get_final_completion().choices[0].message.content, told_in(chunks))


@pytest.mark.parametrize("choice", ["required", NAMED_CHAT], ids=["required", "named"])
def test_a_tool_is_called(client: OpenAI, no_blanks: dict[str, float], choice: Any) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": strict_schema(), "strict": True}}
    more: Any = CHAT | {"tools": [tool], "tool_choice": choice, "logit_bias": no_blanks, "max_tokens": 200}
    answer: Any = client.chat.completions.create(**more)
    with client.chat.completions.stream(**more) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        streamed = stream.get_final_completion()
    for message, told in ((answer.choices[0].message, answer.mooring), (streamed.choices[0].message, told_in(chunks))):
        (call,) = message.tool_calls
        assert call.function.name == "weather"
        Weather.model_validate_json(call.function.arguments)
        assert_told(told, "strong")


def test_an_answer_is_parsed_into_a_model(client: OpenAI, no_blanks: dict[str, float]) -> None:
    answer: Any = client.chat.completions.parse(**CHAT, response_format=Weather, logit_bias=no_blanks)
    assert isinstance(answer.choices[0].message.parsed, Weather)
    assert_told(answer.mooring, "strong")


def strict_schema() -> dict[str, Any]:
    return Weather.model_json_schema() | {"additionalProperties": False}


# --- completions ---------------------------------------------------------------------------------


def test_a_completion_has_the_object_and_its_stream_has_it_once(client: OpenAI) -> None:
    more: Any = {"model": "demo", "prompt": "The sea", "temperature": 0, "max_tokens": 12}
    answer: Any = client.completions.create(**more)
    chunks = list(client.completions.create(**more, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert_told(answer.mooring, "strong")
    assert told_in(chunks[-1:]) == told_in(chunks)


def test_each_answer_to_each_prompt_has_an_object(client: OpenAI) -> None:
    more: Any = {"model": "demo", "prompt": ["The sea", "A man"], "n": 2, "max_tokens": 6, "temperature": 1}
    answer: Any = client.completions.create(**more)
    chunks = list(client.completions.create(**more, stream=True))
    for told in (answer.mooring, told_in(chunks)):
        assert [part["index"] for part in told] == [0, 1, 2, 3]


# --- responses -----------------------------------------------------------------------------------


def test_a_response_has_the_object(client: OpenAI) -> None:
    answer: Any = client.responses.create(**RESPONSE)
    assert_capped(answer.output_text, answer.mooring)


def test_the_last_event_of_a_response_has_the_object_in_its_response(client: OpenAI) -> None:
    events: list[Any] = list(client.responses.create(**RESPONSE, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert_capped(events[-1].response.output_text, events[-1].response.mooring)
    assert [event.type for event in events if "mooring" in event.to_json()] == ["response.completed"]


def test_the_final_response_of_the_stream_helper_has_the_object(client: OpenAI) -> None:
    with client.responses.stream(**RESPONSE) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final: Any = stream.get_final_response()
    assert text == final.output_text
    assert_capped(final.output_text, final.mooring)


@pytest.mark.parametrize("choice", ["required", NAMED_RESPONSE], ids=["required", "named"])
def test_a_tool_is_called_in_a_response(client: OpenAI, no_blanks: dict[str, float], choice: Any) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": strict_schema(), "strict": True}
    more: Any = RESPONSE | {"tools": [tool], "tool_choice": choice, "max_output_tokens": 200}
    bias = {"logit_bias": no_blanks}
    whole: Any = client.responses.create(**more, extra_body=bias)
    with client.responses.stream(**more, extra_body=bias) as stream:
        streamed: Any = stream.get_final_response()
    for answer in (whole, streamed):
        (call,) = answer.output
        assert (call.type, call.name) == ("function_call", "weather")
        Weather.model_validate_json(call.arguments)
        assert_told(answer.mooring, "strong")


def test_a_response_is_parsed_into_a_model(client: OpenAI, no_blanks: dict[str, float]) -> None:
    answer: Any = client.responses.parse(**RESPONSE, text_format=Weather, extra_body={"logit_bias": no_blanks})
    assert isinstance(answer.output_parsed, Weather)
    assert_told(answer.mooring, "strong")


# --- all of them ---------------------------------------------------------------------------------


def test_the_header_says_the_profile(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT | {"model": "demo:off"})
    parsed: Any = raw.parse()
    assert raw.headers["X-Mooring-Profile"] == "off"
    assert_uncapped(parsed.choices[0].message.content, parsed.mooring)
    assert client.responses.with_raw_response.create(**RESPONSE).headers["X-Mooring-Profile"] == "strong"
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as open_stream:
        assert open_stream.headers["X-Mooring-Profile"] == "strong"
        assert list(open_stream.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_a_profile_is_chosen_by_header_by_name_or_in_the_body(client: OpenAI) -> None:
    ways: tuple[dict[str, Any], ...] = (
        {"extra_headers": {"X-Mooring-Profile": "off"}},
        {"model": "demo:off"},
        {"extra_body": {"vllm_xargs": {"mooring_profile": "off"}}},
    )
    for way in ways:
        answer: Any = client.chat.completions.create(**CHAT | way)
        assert_uncapped(answer.choices[0].message.content, answer.mooring)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_profile_is_a_bad_request_with_a_message(client: OpenAI, stream: bool) -> None:
    with pytest.raises(BadRequestError, match="choose one of off, gentle, strong"):
        client.chat.completions.create(**CHAT, stream=stream, extra_headers={"X-Mooring-Profile": "nope"})
    with pytest.raises(BadRequestError, match="choose one of off, gentle, strong"):
        client.responses.create(**RESPONSE, stream=stream, extra_headers={"X-Mooring-Profile": "nope"})


def test_an_answer_goes_back_as_the_next_turns_history(client: OpenAI) -> None:
    """What a client holds of an answer is not confused by the object beside it."""
    first = client.chat.completions.create(**CHAT)
    history: Any = [*PIRATE, first.choices[0].message, {"role": "user", "content": "Why?"}]
    second: Any = client.chat.completions.create(**CHAT | {"messages": history})
    assert second.mooring["turn"] == 2
    said: Any = client.responses.create(**RESPONSE).output
    asked: Any = client.responses.create(**RESPONSE | {"input": [*PIRATE, *said, history[-1]]})
    assert asked.mooring["turn"] == 2


def test_the_async_client_gets_the_same_answers(server: Server, client: OpenAI) -> None:
    async def ask() -> tuple[Any, list[Any], Any]:
        async with AsyncOpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0) as other:
            chunks = [chunk async for chunk in await other.chat.completions.create(**CHAT, stream=True)]
            async with other.responses.stream(**RESPONSE) as stream:
                final = await stream.get_final_response()
            return await other.chat.completions.create(**CHAT), chunks, final

    answer, chunks, final = asyncio.run(ask())
    assert_capped(answer.choices[0].message.content, answer.mooring)
    assert_capped("".join(chunk.choices[0].delta.content or "" for chunk in chunks), told_in(chunks))
    assert_capped(final.output_text, final.mooring)


def test_what_is_dumped_and_loaded_again_still_has_the_object(client: OpenAI) -> None:
    answer: Any = client.chat.completions.create(**CHAT)
    assert json.loads(answer.to_json())["mooring"] == answer.mooring
    assert type(answer).model_validate(answer.model_dump()) == answer
