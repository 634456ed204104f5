"""Replies beside those of stock vLLM: without the `mooring` object they are the same bytes, apart from ids and times.

Two servers of the demo model in fp32, one of them vLLM as it comes; every request goes to both, to ours under `off`.
"""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import zmq

from mooring_hooks.inbox import Inbox
from servers import Server

pytestmark = pytest.mark.engine

TALK = [{"role": "user", "content": "Who are you?"}]
TOOL = {"type": "function", "function": {"name": "look", "description": "look at a place", "parameters": {
    "type": "object", "properties": {"place": {"type": "string", "enum": ["sea", "land"]}},
    "required": ["place"]}}}  # fmt: skip
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {
    "type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"],
    "additionalProperties": False}}}  # fmt: skip
LOOK = TOOL["function"]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": TALK, "max_tokens": 12}),
    ("chat/completions", {"messages": TALK, "max_tokens": 1}),
    ("chat/completions", {"messages": TALK, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}),
    ("chat/completions", {"messages": TALK, "max_tokens": 9, "stop": ["the", "am"]}),
    ("chat/completions", {"messages": TALK, "max_tokens": 30, "response_format": SCHEMA}),
    ("chat/completions", {"messages": TALK, "max_tokens": 40, "tools": [TOOL], "tool_choice": "required"}),
    ("chat/completions", {"messages": TALK, "max_tokens": 40, "tools": [TOOL],
                          "tool_choice": {"type": "function", "function": {"name": "look"}}}),
    ("chat/completions", {"messages": TALK, "max_tokens": 8, "n": 3, "temperature": 1.0, "seed": 5}),
    ("chat/completions", {"messages": TALK, "max_tokens": 12, "tools": [TOOL], "tool_choice": "auto"}),
    ("completions", {"prompt": "The sea", "max_tokens": 12}),
    ("completions", {"prompt": "The sea", "max_tokens": 30, "response_format": SCHEMA}),
    ("completions", {"prompt": ["The sea", "A man"], "max_tokens": 5, "logprobs": 1, "echo": True}),
    ("completions", {"prompt": ["The sea", "A man"], "max_tokens": 5, "n": 2, "temperature": 1.0, "seed": 5}),
    ("responses", {"input": "Who are you?", "max_output_tokens": 12}),
    ("responses", {"input": TALK, "max_output_tokens": 12, "instructions": "You are a pirate.", "user": "u"}),
    ("responses", {"input": TALK, "max_output_tokens": 8, "top_logprobs": 2,
                   "include": ["message.output_text.logprobs"]}),
    ("responses", {"input": TALK, "max_output_tokens": 30,
                   "text": {"format": {"type": "json_schema", **SCHEMA["json_schema"]}}}),
    ("responses", {"input": TALK, "max_output_tokens": 40, "tools": [{"type": "function", **LOOK}],
                   "tool_choice": "required"}),
    ("messages", {"messages": TALK, "max_tokens": 12}),
    ("messages", {"messages": TALK, "max_tokens": 40, "tool_choice": {"type": "any"},
                  "tools": [{"name": "look", "description": "look at a place", "input_schema": LOOK["parameters"]}]}),
    ("messages", {"messages": TALK, "max_tokens": 12, "system": "You are a pirate.", "stop_sequences": ["the"]}),
]  # fmt: skip
REFUSED: list[tuple[str, bytes]] = [
    ("chat/completions", b"{not json"),
    ("chat/completions", b""),
    ("chat/completions", b"[]"),
    ("chat/completions", b'{"model":"demo"}'),
    ("chat/completions", b'{"model":"other","messages":[]}'),
    ("completions", b'{"model":"demo","prompt":"a","max_tokens":-1}'),
    ("completions", b'{"model":"demo","prompt":"a","n":2}'),
    ("responses", b'{"model":"demo","input":7}'),
    ("messages", b'{"model":"demo","messages":[]}'),
    ("nowhere", b"{}"),
]


class Pair(NamedTuple):
    ours: Server
    stock: Server


@pytest.fixture
def pair(mooring_demo: Server, stock_demo: Server) -> Pair:
    return Pair(mooring_demo, stock_demo)


def send(server: Server, path: str, body: dict[str, Any] | bytes, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps({"model": "demo", "temperature": 0} | body).encode()
    headers = {"Content-Type": "application/json"} | headers
    return httpx.post(f"{server.base}/v1/{path}", content=content, headers=headers, timeout=60)


def without_mooring(text: str) -> tuple[str, list[Any]]:
    """The text with every `mooring` member cut out, and their values."""
    values = []
    while (at := text.find('"mooring":')) >= 0:
        value, end = json.JSONDecoder().raw_decode(text, at + len('"mooring":'))
        values.append(value)
        before = at - 1 if text[at - 1] == "," else at
        text = text[:before] + text[end + (before == at and text[end] == ",") :]
    return text, values


def settled(text: str) -> str:
    """Ids, times, the digest of the server's configuration and the last digits of logprobs replaced."""
    text = re.sub(r"\b(chatcmpl-tool|chatcmpl|cmpl|resp|msg|call|fc|rs)[-_][0-9a-f]{8,}", r"\1-ID", text)
    text = re.sub(r'"system_fingerprint":"vllm-0.32.0-[0-9a-f]{8}"', '"system_fingerprint":"ID"', text)
    text = text.replace("demo, demo:off, demo:gentle, demo:strong", "demo")  # the names that a 404 lists
    text = re.sub(r'"(created|created_at|item_id|completed_at)":("[^"]*"|[\d.]+)', r'"\1":0', text)
    return re.sub(r"-?\d+\.\d{4,}(e-?\d+)?", lambda number: f"{float(number[0]):.2f}", text)


def both(pair: Pair, path: str, body: dict[str, Any]) -> tuple[str, str, list[Any]]:
    ours, stock = send(pair.ours, path, body, **{"X-Mooring-Profile": "off"}), send(pair.stock, path, body)
    assert ours.status_code == stock.status_code == 200, (ours.text, stock.text)
    assert "mooring" not in stock.text
    text, told = without_mooring(ours.text)
    return settled(text), settled(stock.text), told


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_a_reply_is_stock_vllms_and_one_object(pair: Pair, path: str, body: dict[str, Any]) -> None:
    ours, stock, told = both(pair, path, body)
    assert ours == stock
    assert len(told) == 1
    for each in told[0] if isinstance(told[0], list) else told:
        assert each["complete"] and each["profile"] == "off"


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_a_stream_is_stock_vllms_and_one_object(pair: Pair, path: str, body: dict[str, Any]) -> None:
    """vLLM puts tokens together in one frame when a reader is late, in either server: so a few times."""
    options = {"stream_options": {"include_usage": True}} if "completions" in path else {}
    if body.get("echo"):
        options = {}
    for _ in range(8):
        ours, stock, told = both(pair, path, body | {"stream": True} | options)
        assert len(told) == 1
        if by_choice(ours) == by_choice(stock):
            return
    assert by_choice(ours) == by_choice(stock)


def by_choice(text: str) -> list[str]:
    """Frames in their order within each choice: which choice comes first is the scheduler's affair."""
    frames = text.split("\n\n")
    return sorted(frames, key=lambda frame: (re.findall(r'"choices":\[\{"index":(\d+)', frame) or ["9"])[0])


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_a_refusal_is_stock_vllms_own(pair: Pair, path: str, body: bytes) -> None:
    ours, stock = send(pair.ours, path, body), send(pair.stock, path, body)
    assert (ours.status_code, settled(ours.text)) == (stock.status_code, settled(stock.text))
    assert ours.status_code >= 400


# --- what clients and strangers may try ----------------------------------------------------------


def told_by(answer: httpx.Response) -> Any:
    return answer.raise_for_status().json()["mooring"]


def counter(server: Server, name: str) -> float:
    return float(re.findall(rf"^{name} (\S+)$", httpx.get(f"{server.base}/metrics").text, re.MULTILINE)[0])


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_reserved_keys_are_a_400_everywhere(pair: Pair, path: str, stream: bool) -> None:
    body = {"messages": TALK, "prompt": "a", "input": "a", "max_tokens": 4, "stream": stream}
    for key, value in (("mooring.reading", ["x", "ipc:///tmp/x", "", 1, 1]), ("mooring.trusted", "x"), ("mooring", 1)):
        answer = send(pair.ours, path, body | {"vllm_xargs": {key: value}})
        assert answer.status_code == 400, (key, answer.text)
    assert send(pair.ours, path, body | {"vllm_xargs": {"mooring_tokens": 7}}).status_code == 400


def test_the_same_request_id_at_once_does_not_mix_readings(pair: Pair) -> None:
    def ask(i: int) -> Any:
        body = {"messages": TALK, "max_tokens": 5 + i, "ignore_eos": True}
        return told_by(send(pair.ours, "chat/completions", body, **{"X-Request-Id": "same"}))

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(ask, range(16)))
    assert [t["measured_tokens"] for t in told] == [4 + i for i in range(16)] and all(t["complete"] for t in told)


def readings_socket(server: Server) -> str:
    """The path of the socket on which the server's API process listens for frames."""
    process = psutil.Process(server.process.pid)
    names = {str(c.laddr) for p in [process, *process.children(recursive=True)] for c in p.net_connections("unix")}
    (found,) = {name for name in names if "mooring-" in name}
    return found


def test_strangers_on_the_socket_are_counted_and_change_nothing(pair: Pair) -> None:
    socket = readings_socket(pair.ours)
    before, lost = (counter(pair.ours, f"mooring_{name}_total") for name in ("frames_malformed", "readings_lost"))
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(f"ipc://{socket}")
        for payload in (b"", b"\x00" * 100, b"\xc1" * 10_000, b'{"numbers": 1}'):
            stranger.send(payload)
        for _ in range(3):
            assert told_by(send(pair.ours, "chat/completions", {"messages": TALK, "max_tokens": 8}))["complete"]
    assert counter(pair.ours, "mooring_frames_malformed_total") == before + 4
    assert counter(pair.ours, "mooring_readings_lost_total") == lost


def test_a_body_of_fifty_megabytes_is_refused_as_stock_does_and_others_are_served_meanwhile(pair: Pair) -> None:
    body = {"messages": [{"role": "user", "content": "sea " * 13_000_000}], "max_tokens": 4}
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(send(pair.ours, "chat/completions", body)))
    thread.start()
    assert told_by(send(pair.ours, "chat/completions", {"messages": TALK, "max_tokens": 8}))["complete"]
    thread.join()
    stock = send(pair.stock, "chat/completions", body)
    assert (answers[0].status_code, settled(answers[0].text)) == (stock.status_code, settled(stock.text))
    assert stock.status_code == 400


def test_tokens_cover_a_whole_long_answer(pair: Pair) -> None:
    body = {"prompt": "The sea", "max_tokens": 1500, "ignore_eos": True, "vllm_xargs": {"mooring_tokens": True}}
    told = told_by(send(pair.ours, "completions", body))
    assert told["tokens"]["index"] == list(range(1499)) and not told["tokens"]["truncated"]
    assert sum(told["tokens"]["projection"]["3"]) / 1499 == pytest.approx(told["projection"], rel=1e-4)


def test_the_profiles_and_the_axis_are_told(pair: Pair) -> None:
    profiles = httpx.get(f"{pair.ours.base}/v1/mooring/profiles").raise_for_status().json()
    assert profiles["default"] == "strong"
    assert [p["name"] for p in profiles["profiles"]] == ["off", "gentle", "strong"]
    strong = profiles["profiles"][2]
    assert sorted(strong["layers"]) == ["4", "5", "6"] and strong["layers"]["4"]["floor"] > 0
    assert profiles["profiles"][0]["layers"] == {}
    axis = httpx.get(f"{pair.ours.base}/v1/mooring/axis").raise_for_status().json()
    assert axis["monitored_layer"] == 3 and axis["hidden_size"] == 192 and axis["digest"] == strong["axis"]
    assert axis["layers"]["3"]["default_mean"] > axis["layers"]["3"]["role_mean"]


def test_an_inbox_of_this_process_takes_nothing_from_the_server(pair: Pair) -> None:
    """Each process has an address of its own: answers of another one never arrive here."""
    inbox = Inbox(4, 8)
    ticket = inbox.open()
    send(pair.ours, "chat/completions", {"messages": TALK, "max_tokens": 8})
    inbox.drain()
    assert len(inbox.collect(ticket.number, 7)) == 0
    inbox.stop()
