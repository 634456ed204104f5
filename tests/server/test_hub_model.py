"""A small model from the hub on a GPU: its own weights, a cap calibrated for its shape, compiled and in CUDA graphs.

The start is most of the test: it proves, in the served graph, that every profile does what it says. No axis of so
small a model is published, so the directions are random (benchmarks/stand_in.py): what they lift means nothing.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers import Server

pytestmark = pytest.mark.gpu

MODEL = os.environ.get("MOORING_HUB_MODEL", "Qwen/Qwen3-0.6B")
STAND_IN = Path(__file__).parents[2] / "benchmarks" / "stand_in.py"
QUESTION = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 64, "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hub")
    subprocess.run([sys.executable, STAND_IN, "qwen3-0.6b-shape", folder], check=True)
    options = ["--axis", str(folder / "axis.safetensors"), "--axis-of-another-model", "--max-model-len", "2048",
               "--gpu-memory-utilization", "0.5", "--served-model-name", "hub"]  # fmt: skip
    with Server([MODEL, *options], folder / "log") as running:
        yield running.wait_until_ready()


def ask(server: Server, profile: str) -> Any:
    body = QUESTION | {"model": f"hub:{profile}"}
    return httpx.post(f"{server.base}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()


def test_answers_are_measured_at_every_layer(server: Server) -> None:
    for profile in ("off", "default"):
        told = ask(server, profile)["mooring"]
        assert told["complete"] and told["measured_tokens"] > 0 and told["profile"] == profile
        assert len(told["layers"]) == 9  # the eight that are capped, and the monitored one


def test_off_lifts_nothing_and_the_cap_lifts(server: Server) -> None:
    assert ask(server, "off")["mooring"]["lifted_share"] == 0
    assert ask(server, "default")["mooring"]["lifted_share"] > 0


def test_a_capped_question_leaves_the_next_uncapped_answer_alone(server: Server) -> None:
    before = ask(server, "off")["choices"][0]["message"]["content"]
    ask(server, "default")
    assert ask(server, "off")["choices"][0]["message"]["content"] == before
