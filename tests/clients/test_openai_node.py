"""The openai SDK for node: chat, streams and their helpers, responses. What it does is in node/ask.mjs."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clients.environments import node, node_packages
from clients.talk import ENOUGH, PIRATE, assert_capped, assert_uncapped
from servers import Server

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def heard(server: Server) -> dict[str, Any]:
    """What the script got. It is handed over as text, so that its imports are looked up in the packages' folder."""
    packages = node_packages("openai", HERE / "package.json")
    asked = json.dumps({"base": server.base, "messages": PIRATE, "most": ENOUGH})
    command = [str(node()), "--input-type=module", "--eval", (HERE / "ask.mjs").read_text()]
    done = subprocess.run(command, cwd=packages, input=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("way", ["plain", "streamed", "helped", "responded", "respondedInEvents", "respondedWithHelp"])
def test_every_way_to_ask_gets_the_answer_and_the_object(heard: dict[str, Any], way: str) -> None:
    assert_capped(heard[way]["text"], heard[way]["told"])


def test_every_chunk_of_a_stream_has_its_choice_and_the_last_one_the_object(heard: dict[str, Any]) -> None:
    assert set(heard["streamed"]["choices"]) == {1}
    assert heard["streamed"]["objects"] == 1


def test_the_last_event_of_a_response_is_its_end(heard: dict[str, Any]) -> None:
    assert heard["respondedInEvents"]["last"] == "response.completed"


def test_the_header_says_the_profile_and_the_models_name_chooses_it(heard: dict[str, Any]) -> None:
    assert heard["plain"]["header"] == "strong"
    assert_uncapped(heard["uncapped"]["text"], heard["uncapped"]["told"])


def test_an_unknown_profile_is_a_bad_request_with_a_message(heard: dict[str, Any]) -> None:
    assert heard["refused"]["status"] == 400
    assert "choose one of off, gentle, strong" in heard["refused"]["message"]
