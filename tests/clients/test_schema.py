"""schemathesis: what the server's own OpenAPI schema allows, asked of the server.

    /v1/mooring/*            every check there is; the stream of turns is left out, since it never ends
    the generating routes    no answer without its object and header, no server error but stock vLLM's own

What is known to be stock vLLM's own is a list here, and `make verify` compares it with stock vLLM.
"""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients.environments import python_of
from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]

CONFIG = Path(__file__).parent / "schema" / "schemathesis.toml"
GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
CHECKS = "an_answer_says_its_profile_and_where_it_lay,a_reply_is_noted"
EXAMPLES = 400
"""Requests per generating route."""
JSON = {"Content-Type": "application/json"}
HISTORY = {"type": "message", "id": "a", "role": "assistant", "status": "completed"}
NEITHER_ANSWERS: dict[str, dict[str, Any]] = {
    "a tool's file": {"input": [{"type": "function_call_output", "id": "", "status": "completed", "created_by": None,
                                 "output": [{"type": "input_file"}]}]},
    "an empty message": {"input": [HISTORY | {"content": []}]},
    "a refusal": {"input": [HISTORY | {"content": [{"type": "refusal", "refusal": "no"}]}]},
    "a null in a stream": {"input": "a", "stream": True, "background": None},
    "another null in a stream": {"input": "a", "stream": True, "truncation": None},
}  # fmt: skip


def schemathesis(server: Server, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run it in `folder`, where it must find nothing; the replies that schema_hooks.py noted."""
    replies = folder / "replies"
    program = [str(python_of("schemathesis")), "-m", "schemathesis.cli", "--no-color"]
    command = [*program, "--config-file", str(CONFIG), "run", f"{server.base}/openapi.json", *options]
    environment = os.environ | {"PYTHONPATH": str(CONFIG.parent), "REPLIES": str(replies)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in replies.read_text().splitlines()]


def ask(server: Server, path: str, body: Any) -> tuple[int, str]:
    """Status and text of a reply; 0 where it broke off."""
    try:
        reply = httpx.post(f"{server.base}{path}", content=json.dumps(body), headers=JSON, timeout=60)
    except httpx.RemoteProtocolError as error:
        return 0, str(error)
    return reply.status_code, reply.text


def test_the_routes_of_mooring_pass_every_check(server: Server, tmp_path: Path) -> None:
    replies = schemathesis(server, tmp_path, "--include-path-regex", "^/v1/mooring/(profiles|axis)$", "--checks", "all")
    answered = {reply["path"] for reply in replies if reply["status"] == 200}
    assert answered == {"/v1/mooring/profiles", "/v1/mooring/axis"}


def test_the_routes_of_the_history_pass_every_check_that_a_schema_can_tell(server: Server, tmp_path: Path) -> None:
    """A cursor is right if a page gave it, which no schema says; `Allow` names the methods of one route of a path."""
    but = ("--exclude-checks", "positive_data_acceptance,allow_header_conformance")
    replies = schemathesis(server, tmp_path, "--include-path-regex", "^/v1/mooring/sessions", "--checks", "all", *but)
    statuses = {(reply["path"], reply["status"]) for reply in replies}
    assert ("/v1/mooring/sessions", 200) in statuses and not any(status >= 500 for _, status in statuses)


def test_a_generating_route_answers_with_its_object_and_fails_only_where_stock_vllm_does(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Stock vLLM is asked whatever ended in a server error, and only then started."""
    routes = (word for path in GENERATING for word in ("--include-path", path))
    options = ("--checks", CHECKS, "--mode", "positive", "--phases", "fuzzing", "--max-examples", str(EXAMPLES))
    replies = schemathesis(server, tmp_path, *routes, *options)
    statuses = Counter((reply["path"], reply["status"]) for reply in replies)
    assert all(statuses[path, 200] >= EXAMPLES / 5 for path in GENERATING), statuses
    for reply in replies:
        if reply["status"] >= 500:
            stock: Server = request.getfixturevalue("stock")
            assert ask(stock, reply["path"], reply["body"]) == (reply["status"], reply["text"])


@pytest.mark.parametrize("body", NEITHER_ANSWERS.values(), ids=NEITHER_ANSWERS)
def test_what_stock_vllm_cannot_answer_is_not_answered_otherwise(
    server: Server, stock: Server, body: dict[str, Any]
) -> None:
    asked = {"model": "demo", "max_output_tokens": 8} | body
    ours, theirs = ask(server, "/v1/responses", asked), ask(stock, "/v1/responses", asked)
    assert ours == theirs and ours[0] in (0, 500)
