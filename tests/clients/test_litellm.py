"""litellm as a library, under both of its names for a server like this. What it does is in litellm_ask.py."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clients.environments import python_of
from clients.talk import ENOUGH, PIRATE, assert_capped, assert_uncapped
from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]

SCRIPT = Path(__file__).parent / "litellm_ask.py"
PROVIDERS = ("openai", "hosted_vllm")


@pytest.fixture(scope="module")
def heard(server: Server) -> dict[str, Any]:
    command = [str(python_of("litellm")), str(SCRIPT), server.base, json.dumps(PIRATE), str(ENOUGH)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_answer_has_the_object_and_the_header(heard: dict[str, Any], provider: str) -> None:
    plain = heard[provider]["plain"]
    assert_capped(plain["text"], plain["told"])
    assert plain["header"] == "strong"


def test_the_last_chunk_of_a_stream_has_the_object(heard: dict[str, Any]) -> None:
    streamed = heard["openai"]["streamed"]
    assert_capped(streamed["text"], streamed["told"])
    assert streamed["objects"] == 1


def test_the_other_provider_streams_the_text_and_leaves_the_object_out(heard: dict[str, Any]) -> None:
    """What it does not know about a chunk it drops; nothing breaks."""
    streamed = heard["hosted_vllm"]["streamed"]
    assert streamed["text"] == heard["openai"]["streamed"]["text"]
    assert streamed["objects"] == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_is_put_together_again(heard: dict[str, Any], provider: str) -> None:
    streamed = heard[provider]["streamed"]
    assert streamed["rebuilt"] == streamed["text"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_models_name_chooses_the_profile(heard: dict[str, Any], provider: str) -> None:
    assert_uncapped(heard[provider]["uncapped"]["text"], heard[provider]["uncapped"]["told"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_unknown_profile_is_a_bad_request_with_a_message(heard: dict[str, Any], provider: str) -> None:
    assert heard[provider]["refused"]["status"] == 400
    assert "choose one of off, gentle, strong" in heard[provider]["refused"]["message"]
