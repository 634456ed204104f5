"""A worker that sends no readings: answers go out all the same, say so, are counted, and hardly wait."""

import json
import re
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from mooring_server.turn import PATIENCE
from servers import Server

pytestmark = pytest.mark.engine

SILENT = """
def register():
    from mooring_hooks.frames import Sender

    Sender.send = lambda *frame: None
"""
ENTRY = "[vllm.general_plugins]\nsilent = silent:register\n"
CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}
NOTHING = {"projection": None, "drift": None, "lifted_share": None, "mean_lift": None, "measured_tokens": 0}
SLACK = 0.05
"""Seconds that a busy machine may add even to the shortest of many waits."""


def silent_plugin(folder: Path) -> Path:
    """A general plugin, which vLLM loads into every process: none of the worker's frames is sent."""
    (folder / "silent.py").write_text(SILENT)
    (folder / "silent-1.dist-info").mkdir()
    (folder / "silent-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: silent\nVersion: 1\n")
    (folder / "silent-1.dist-info" / "entry_points.txt").write_text(ENTRY)
    return folder


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.verify)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = silent_plugin(tmp_path_factory.mktemp("silent"))
    arguments = ["demo", "--api-server-count", str(request.param), "--enforce-eager"]
    with Server(arguments, folder / "log", PYTHONPATH=str(folder)) as running:
        yield running.wait_until_ready()


def answer(server: Server, **more: Any) -> Any:
    return httpx.post(f"{server.base}/v1/chat/completions", json=CHAT | more, timeout=60).raise_for_status().json()


def lost(server: Server) -> float:
    found = re.findall(r"^mooring_readings_lost_total (\S+)$", httpx.get(f"{server.base}/metrics").text, re.M)
    return sum(map(float, found))


def test_an_answer_without_readings_goes_out_and_says_so(server: Server) -> None:
    body = answer(server, max_tokens=8)
    assert body["usage"]["completion_tokens"] == 8 and body["choices"][0]["message"]["content"]
    assert body["mooring"].items() >= {"profile": "strong", "complete": False, "layers": {}, **NOTHING}.items()


def test_an_answer_of_one_token_misses_nothing(server: Server) -> None:
    assert answer(server, max_tokens=1)["mooring"].items() >= {"complete": True, **NOTHING}.items()


def test_every_choice_that_lost_readings_is_counted_whichever_process_answered(server: Server) -> None:
    before = lost(server)
    for _ in range(8):  # each on a connection of its own, which any API server may take
        answer(server, max_tokens=4, n=2, temperature=1)
        answer(server, max_tokens=1)
    assert lost(server) == before + 16


def waits(server: Server, tokens: int) -> tuple[float, float]:
    """(seconds from the last text without a finish reason to the one with it, longest gap between the others)."""
    at, told = [], None
    body = CHAT | {"max_tokens": tokens, "stream": True}
    with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                at.append(time.monotonic())
                told = json.loads(line.removeprefix("data: ")).get("mooring", told)
    assert told is not None and told["complete"] is False
    gaps = [after - before for before, after in pairwise(at)]
    return gaps[-1], max(gaps[1:-1])


def test_only_the_frame_that_ends_a_stream_waits_and_not_for_long(server: Server) -> None:
    last, others = zip(*(waits(server, 6) for _ in range(15)), strict=True)
    assert PATIENCE <= statistics.median(last) and min(last) <= PATIENCE + SLACK
    assert statistics.median(others) < PATIENCE


def test_many_answers_wait_at_the_same_time(server: Server) -> None:
    began = time.monotonic()
    body = answer(server, max_tokens=4, n=32, temperature=1)
    assert [told["complete"] for told in body["mooring"]] == [False] * 32
    assert time.monotonic() - began < 32 * PATIENCE
