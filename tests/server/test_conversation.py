"""How a conversation is known again: by what was said, in whichever form a client sends it back, and never wrongly."""

import copy
import json
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mooring_server.conversation import Atom, Conversation, Place, messages_of, spoken
from mooring_server.said import Said
from mooring_server.sessions import Sessions

Message = dict[str, Any]
SERVER = Sessions("m", key=b"k")
SEEDS = range(20)


def place(messages: Sequence[Message], answer: str | Message, server: Sessions = SERVER, **headers: str) -> Place:
    """Where an answer to these messages stands."""
    said = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    conversation = server.conversation(SimpleNamespace(messages=list(messages)), headers)
    assert conversation is not None
    atoms = list(messages_of(SimpleNamespace(messages=[said])) or ())
    return conversation.answered(atoms)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def talk(rng: random.Random, turns: int) -> list[Message]:
    """A conversation of that many turns, with tools now and then; the last message is an answer."""

    def words() -> str:
        return " ".join(rng.choices(["sea", "Küste", "船", "rope\nknot", '"', "<b>", "0"], k=rng.randint(1, 9)))

    messages = [{"role": "system", "content": words()}] if rng.random() < 0.5 else []
    for _ in range(turns):
        if rng.random() < 0.3:
            call = {"id": "c1", "type": "function",
                    "function": {"name": "look", "arguments": '{"place": "sea", "depth": 2}'}}  # fmt: skip
            messages += [user(words()), {"role": "assistant", "content": None, "tool_calls": [call]},
                         {"role": "tool", "tool_call_id": "c1", "content": words()}, assistant(words())]  # fmt: skip
        else:
            messages += [user(words()), assistant(words())]
    return messages


def places(messages: Sequence[Message]) -> list[Place]:
    """Of each answer, as the conversation goes on."""
    return [place(messages[:i], m) for i, m in enumerate(messages) if m["role"] == "assistant"]


def rewritten(message: Message, rng: random.Random) -> Message:
    """The same message as another client would send it."""
    told = copy.deepcopy(message)
    if isinstance(text := told["content"], str):
        text = rng.choice(["", " ", "\n"]) + text.replace("\n", rng.choice(["\n", "\r\n"])) + rng.choice(["", "\n\n"])
        at = rng.randrange(len(text) + 1)
        parts = [{"type": "text", "text": text[:at]}, {"type": "text", "text": text[at:]}]
        told["content"] = rng.choice([text, parts])
    if told["role"] == "assistant":
        told["reasoning"] = "hm"
    for call in told.get("tool_calls", ()):
        call["id"] = "another"
        arguments = '{"depth":2,"place":"sea"}'
        call["function"]["arguments"] = rng.choice([arguments, json.loads(arguments)])  # vLLM decodes it in place
        told["content"] = rng.choice([None, "", []])
    return told


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plain_clients_next_request_joins_its_previous_turn(seed: int) -> None:
    found = places(talk(random.Random(seed), 6))
    assert {each.session for each in found} == {f"conv-{found[0].node}"}
    assert [each.parent for each in found] == ["", *(each.node for each in found[:-1])]
    assert len({each.node for each in found}) == len(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_joins_in_whichever_form_the_client_sends_it_back(seed: int) -> None:
    rng = random.Random(seed)
    messages = talk(rng, 6)
    assert places([rewritten(message, rng) for message in messages]) == places(messages)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_edit_is_a_branch_and_never_joins_what_it_left(seed: int) -> None:
    rng = random.Random(seed)
    messages = talk(rng, 6)
    at = rng.randrange(len(messages))
    edited = copy.deepcopy(messages)
    if edited[at].get("tool_calls"):
        edited[at]["tool_calls"][0]["function"]["arguments"] = '{"place": "land"}'
    else:
        edited[at]["content"] += "?"
    before, after = places(messages), places(edited)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for i, old, new in zip(answers, before, after, strict=True):
        assert (old.node == new.node) == (i < at), "what came before the edit is shared, nothing after it is"
        assert (old.session == new.session) == (answers[0] < at), "an edit of the opening begins another session"
    assert not {p.node for p in after[len([i for i in answers if i < at]) :]} & {p.node for p in before}


def test_branches_of_one_conversation_share_its_session() -> None:
    opening = [user("hello"), assistant("hi")]
    one, two = place([*opening, user("boats?")], "yes"), place([*opening, user("trains?")], "no")
    again = place([*opening, user("boats?")], "yes, boats")
    assert one.session == two.session == again.session == place(opening[:1], "hi").session
    assert one.parent == two.parent == again.parent == place(opening[:1], "hi").node
    assert len({one.node, two.node, again.node}) == 3


def test_identical_openers_are_two_sessions_once_their_answers_differ() -> None:
    assert place([user("hi")], "hello").session != place([user("hi")], "good day").session


def test_choices_of_one_request_are_branches_each_with_its_own_node() -> None:
    conversation = SERVER.conversation(SimpleNamespace(messages=[user("hi"), assistant("a"), user("b")]), {})
    assert conversation is not None
    found = [conversation.answered(spoken("assistant", text)) for text in ("x", "y", "x")]
    assert found[0] == found[2] != found[1] and found[0].session == found[1].session


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([user("ab"), assistant("c")], [user("a"), assistant("bc")]),
        ([user("a"), user("b")], [user("ab")]),
        ([user("a"), user("b")], [user("a\nb")]),
        ([user("a")], [{"role": "system", "content": "a"}]),
        ([user("a")], [{"role": "tool", "content": "a"}]),
        ([user("1:a")], [user("a")]),
        ([user("a b")], [user("a  b")]),
        ([user("")], []),
    ],
)
def test_what_is_said_elsewhere_is_something_else(one: list[Message], other: list[Message]) -> None:
    assert place(one, "x").node != place(other, "x").node


def test_a_greeting_before_the_first_question_is_no_answer() -> None:
    greeting = [{"role": "system", "content": "s"}, assistant("Ahoy, I am the captain.")]
    one, two = place([*greeting, user("a")], "b"), place([*greeting, user("c")], "d")
    assert one.session != two.session and one.parent == two.parent == ""
    assert place([*greeting, user("a"), assistant("b"), user("e")], "f").session == one.session


def begun(messages: Sequence[Message], said: str, **more: Any) -> Place:
    """Where an answer stands that says this after what its request ends with."""
    conversation = SERVER.conversation(SimpleNamespace(messages=list(messages), **more), {})
    assert conversation is not None
    return conversation.answered(spoken("assistant", said))


@pytest.mark.parametrize("opening", [[], [user("a"), assistant("b")]])
def test_an_answer_that_its_client_has_begun_is_joined_as_one_message_or_as_two(opening: list[Message]) -> None:
    asked = [*opening, user("Tell me.")]
    answer = begun([*asked, assistant("Sure, ")], "here it is: ")
    again = begun([*asked, assistant("Sure, here it is: ")], "the sea.")
    assert answer.parent == (place(opening[:1], "b").node if opening else "") and answer.parent == again.parent
    for sent in ([assistant("Sure, here it is:")], [assistant("Sure, "), assistant("here it is: ")]):
        followed = place([*asked, *sent, user("And?")], "Well.")
        assert (followed.session, followed.parent) == (answer.session, answer.node)
    whole = place([*asked, assistant("Sure, here it is: the sea."), user("And?")], "Well.")
    assert (whole.session == again.session) and whole.parent == again.node != answer.node


def test_an_answer_that_says_its_beginning_again_is_not_begun_twice() -> None:
    asked = [user("Tell me."), assistant("Sure, ")]
    assert begun(asked, "Sure, here it is.", echo=True) == begun(asked, "here it is.", echo=False)
    assert begun(asked[:1], "Sure.", echo=True) == begun(asked[:1], "Sure.")


def test_a_begun_answer_that_calls_a_tool_comes_back_as_one_message() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    conversation = SERVER.conversation(SimpleNamespace(messages=[user("a"), assistant("I look: ")]), {})
    assert conversation is not None
    answer = conversation.answered(spoken("assistant", "", [("look", "{}")]))
    back = [user("a"), assistant("I look: ") | {"tool_calls": [call]}, {"role": "tool", "content": "waves"}]
    assert place(back, "x").parent == answer.node


def test_many_short_messages_of_the_assistant_cost_no_more_than_a_long_one() -> None:
    many = begun([user("a"), *[assistant("x" * 100)] * 20_000], "y")
    assert many == begun([user("a"), assistant("x" * 2_000_000)], "y")


@pytest.fixture
def as_vllm_reads() -> Any:
    """Messages as vLLM's own request holds them."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return lambda messages: ChatCompletionRequest.model_validate({"model": "m", "messages": messages}).messages


PARTS: Message = {"role": "assistant", "content": [{"type": "text", "text": "hi"}], "refusal": None, "audio": None}


def test_parts_that_vllm_holds_as_an_iterator_are_the_text_that_they_are(as_vllm_reads: Any) -> None:
    messages = as_vllm_reads([user("a"), PARTS, user("b")])
    assert not isinstance(messages[1]["content"], list), "vLLM holds them otherwise now: is _content still needed?"
    first = place(messages, "c")
    assert first == place(messages, "c") == place([user("a"), assistant("hi"), user("b")], "c")
    assert messages[1]["content"] == [{"type": "text", "text": "hi"}], "vLLM can still read them"


def test_parts_that_vllm_has_read_already_join_nothing_rather_than_something_else(as_vllm_reads: Any) -> None:
    found = []
    for text in ("hi", "hi", "ho"):
        messages = as_vllm_reads([user("a"), PARTS | {"content": [{"type": "text", "text": text}]}, user("b")])
        assert list(messages[1]["content"])
        found.append(place(messages, "c"))
    assert len({each.node for each in found}) == len({each.session for each in found}) == 3


def test_parts_that_are_of_no_kind_that_vllm_knows_have_a_place_too(as_vllm_reads: Any) -> None:
    odd = {"role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}
    assert place(as_vllm_reads([user("a"), odd, user("b")]), "c").node


def test_other_keys_models_and_servers_never_share_a_conversation() -> None:
    messages = [user("a"), assistant("b"), user("c")]
    plain = place(messages, "d")
    others = [
        place(messages, "d", authorization="Bearer one"),
        place(messages, "d", authorization="Bearer two"),
        place(messages, "d", **{"x-api-key": "one"}),
        place(messages, "d", Sessions("other", key=b"k")),
        place(messages, "d", Sessions("m", key=b"another")),
    ]
    assert len({p.node for p in (plain, *others)}) == len({p.session for p in (plain, *others)}) == 6
    assert plain == place(messages, "d", Sessions("m", key=b"k")), "in every process and replica the same"


def test_images_count_by_an_outline_however_large() -> None:
    def with_image(url: str) -> list[Message]:
        image = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}]

    large = "data:" + "A" * 5_000_000
    assert place(with_image(large), "x") == place(with_image(large), "x") != place(with_image(large + "B"), "x")


NESTED: list[Any] = []
for _ in range(5000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": NESTED}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": NESTED}}}]}],
        [{}], [{"role": None, "content": None}], [{"role": "user", "content": 7}],
        [{"role": "user", "content": [7, None]}],
        [{"role": "user", "content": "\ud800"}], [{"role": "assistant", "tool_calls": [{}]}], [None], ["text"],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 100_000}}]}],
        [{"role": "user", "content": "'; DROP TABLE turns; --<script>"}],
    ],
)  # fmt: skip
def test_whatever_the_messages_hold_has_a_place_without_their_text(messages: list[Any]) -> None:
    found = place(messages, "x")
    assert all(part == "" or set(part.removeprefix("conv-")) <= set("0123456789abcdef") for part in found)


# --- what each endpoint's reply says, and how its client sends it back ---------------------------


def stream(*events: dict[str, Any], named: bool = False) -> list[bytes]:
    head = [f"event: {event['type']}\n" if named else "" for event in events]
    return [f"{h}data: {json.dumps(event)}\n\n".encode() for h, event in zip(head, events, strict=True)]


def chat_delta(choice: int, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "choices": [{"index": choice, "delta": delta, "finish_reason": None}]}


def test_a_chat_reply_says_the_same_whole_or_streamed_or_in_one_chunk() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}}
    body = {"id": "chatcmpl-1", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Ahoy: {\"data: {\"}", "reasoning": "hm"}},
        {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": [call, call]}}]}  # fmt: skip
    frames = stream(
        chat_delta(0, role="assistant", content=""), chat_delta(0, reasoning="hm"),
        chat_delta(0, content="Ahoy: {\"da"),
        chat_delta(1, tool_calls=[{"index": 0, "function": {"name": "look", "arguments": ""}}]),
        chat_delta(0, content="ta: {\"}"),
        chat_delta(1, tool_calls=[{"index": 0, "function": {"arguments": '{"at":'}}]),
        chat_delta(1, tool_calls=[{"index": 0, "function": {"arguments": ' "sea"}'}}]),
        chat_delta(1, tool_calls=[{"index": 1, "function": {"name": "look", "arguments": '{"at":"sea"}'}}]),
        {"id": "chatcmpl-1", "choices": [], "usage": {}},
    )  # fmt: skip
    whole, streamed, together = Said("chat"), Said("chat"), Said("chat")
    whole.body(json.dumps(body).encode())
    for frame in [*frames, b"data: [DONE]\n\n", b": ping\n\n", b"data: {broken\n\n"]:
        streamed.frames(frame)
    together.frames(b"".join(frames))
    for choice in (0, 1):
        assert whole.atoms(choice) == streamed.atoms(choice) == together.atoms(choice)
        message = body["choices"][choice]["message"]  # type: ignore[index]
        assert whole.atoms(choice) == list(messages_of(SimpleNamespace(messages=[message])) or ())
    assert whole.response == streamed.response == "chatcmpl-1"


def test_a_messages_reply_comes_back_as_the_chat_message_vllm_makes_of_it() -> None:
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Ahoy"},
              {"type": "tool_use", "id": "t", "name": "look", "input": {"at": "sea"}},
              {"type": "tool_use", "id": "u", "name": "wait", "input": {}}]  # fmt: skip
    frames = stream(
        {"type": "message_start", "message": {"id": "msg-1", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Ah"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "oy"}},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "look", "input": {}}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"at":'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ' "sea"}'}},
        {"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "name": "wait", "input": {}}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
        named=True,
    )  # fmt: skip
    back = {"role": "assistant", "content": "Ahoy", "reasoning": "hm", "tool_calls": [
        {"id": "t", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}},
        {"id": "u", "type": "function", "function": {"name": "wait", "arguments": "{}"}}]}  # fmt: skip
    whole, streamed = Said("messages"), Said("messages")
    whole.body(json.dumps({"id": "msg-1", "type": "message", "content": blocks}).encode())
    for frame in frames:
        streamed.frames(frame)
    assert whole.atoms(0) == streamed.atoms(0) == list(messages_of(SimpleNamespace(messages=[back])) or ())
    assert whole.response == streamed.response == "msg-1"


def test_a_response_comes_back_as_the_items_of_its_output() -> None:
    output = [
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ahoy"}]},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": '{"at": "sea"}'},
    ]
    frames = stream(
        {"type": "response.created", "response": {"id": "resp_1", "output": []}},
        {"type": "response.output_text.delta", "delta": "Ah", "item_id": "x"},
        {"type": "response.reasoning_text.delta", "delta": "hm", "item_id": "x"},
        {"type": "response.completed", "response": {"id": "resp_1", "output": output}},
        named=True,
    )
    whole, streamed = Said("responses"), Said("responses")
    whole.body(json.dumps({"id": "resp_1", "object": "response", "output": output}).encode())
    for frame in frames[:3]:
        streamed.frames(frame)
    assert streamed.atoms(0) == [Atom("assistant", "text", "Ah")], "as far as it had come"
    streamed.frames(frames[3])
    opening = SimpleNamespace(input="hello", instructions="Be brief.")
    followed = SimpleNamespace(instructions="Be brief.", input=[
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]}, *output,
        {"type": "function_call_output", "call_id": "1", "output": "waves"}])  # fmt: skip
    first = Conversation(b"k", (), messages_of(opening) or ()).answered(whole.atoms(0))
    second = Conversation(b"k", (), messages_of(followed) or ()).answered(())
    assert whole.atoms(0) == streamed.atoms(0) and whole.response == streamed.response == "resp_1"
    assert second.parent == first.node and second.session == first.session


def test_a_completion_has_an_id_and_no_conversation() -> None:
    said = Said("completions")
    said.frames(b'data: {"id":"cmpl-1","choices":[{"index":0,"text":"a"}]}\n\n')
    assert said.response == "cmpl-1"
    assert SERVER.conversation(SimpleNamespace(prompt="a"), {}) is None
