"""What a request has and what it has not, of vLLM's own classes."""

from types import SimpleNamespace

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from mooring_server.member import member

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", "m"), ("metadata", {"session_id": "s"}), ("litellm_session_id", "l"), ("echo", False), ("nope", None)],
)
def test_fields_and_what_the_client_sent_besides_are_found(name: str, value: object) -> None:
    request = ChatCompletionRequest.model_validate(
        {"model": "m", "messages": MESSAGES, "metadata": {"session_id": "s"}, "litellm_session_id": "l"}
    )
    assert member(request, name) == value
    assert member(request, name) == getattr(request, name, None)


def test_what_is_no_request_of_pydantics_has_members_too() -> None:
    assert member(SimpleNamespace(input="hi"), "input") == "hi"
    assert member(SimpleNamespace(), "input") is None is member(None, "input")
