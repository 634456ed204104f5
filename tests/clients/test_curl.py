"""curl: what the README and the server's own start tell people to type."""

import json
import subprocess
from typing import Any

import pytest

from clients.talk import ENOUGH, PIRATE, SYSTEM, USER, assert_capped
from servers import Server

pytestmark = pytest.mark.engine

BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": PIRATE, "max_tokens": ENOUGH},
    "completions": {"prompt": "The sea", "max_tokens": 12},
    "responses": {"input": PIRATE, "max_output_tokens": ENOUGH},
    "messages": {"system": SYSTEM, "messages": USER, "max_tokens": ENOUGH},
}


def curl(server: Server, path: str, *options: str, **more: Any) -> tuple[list[str], str]:
    """The lines of the response's head, and its body."""
    body = json.dumps({"model": "demo", "temperature": 0} | BODIES[path] | more)
    command = ["curl", "-sS", "-i", "--max-time", "60", *options, f"{server.base}/v1/{path}",
               "-H", "Content-Type: application/json", "-d", body]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, _, text = done.stdout.partition("\n\n")
    return head.lower().splitlines(), text


def frames(text: str) -> list[str]:
    assert text.endswith("\n\n")
    return text.removesuffix("\n\n").split("\n\n")


def data_of(frame: str) -> Any:
    """The one data line of a frame, which at most its event's name precedes."""
    *event, data = frame.split("\n")
    assert data.startswith("data: ") and [line.split(": ")[0] for line in event] in ([], ["event"])
    return json.loads(data.removeprefix("data: "))


def holder_of(data: dict[str, Any]) -> dict[str, Any]:
    """Where a stream's object goes: into the frame, or into the response that the frame holds."""
    return dict(data.get("response", data))


def test_a_plain_answer_is_json_with_the_object_and_its_header(server: Server) -> None:
    head, text = curl(server, "chat/completions")
    answer = json.loads(text)
    assert head[0] == "http/1.1 200 ok" and "x-mooring-profile: strong" in head
    assert f"content-length: {len(text.encode())}" in head
    assert_capped(answer["choices"][0]["message"]["content"], answer["mooring"])


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_is_well_formed_and_one_frame_has_the_object(server: Server, path: str) -> None:
    head, text = curl(server, path, "-N", stream=True)
    assert "x-mooring-profile: strong" in head
    events = frames(text)
    if path in ("chat/completions", "completions"):
        assert events.pop() == "data: [DONE]"
    told = [position - len(events) for position, event in enumerate(events) if "mooring" in holder_of(data_of(event))]
    assert told == [-2 if path == "messages" else -1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_profile_is_a_400_that_lists_the_choices(server: Server, path: str, stream: bool) -> None:
    head, text = curl(server, path, "-H", "X-Mooring-Profile: nope", stream=stream)
    assert head[0] == "http/1.1 400 bad request"
    assert "choose one of off, gentle, strong" in json.loads(text)["error"]["message"]
    assert '"mooring":' not in text
