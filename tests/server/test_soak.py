"""Tens of thousands of answers of every kind: each one measured whole and once, and no process grows.

Results go to tests/results/soak.json, to be committed with those of `make verify`.
"""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers import Server
from soak.clients import soak
from soak.memory import Memory
from verify import where

pytestmark = [pytest.mark.engine, pytest.mark.verify]

RESULT = Path(__file__).parents[1] / "results" / "soak.json"
ANSWERS = {2: 20_000, 1: 6_000}
"""By number of API servers."""
FEW_BLOCKS = ["--num-gpu-blocks-override", "80"]
"""Of 128 tokens: 48 clients need more, so that requests are preempted and positions are computed twice."""
ZERO = ("mooring_readings_lost_total", "mooring_frames_malformed_total", "mooring_frames_dropped_total")
PREEMPTIONS = "vllm:num_preemptions_total"
GROWTH = 4.0
"""MiB that a process may grow after its warm-up. The rows of 4,000 answers, kept, take 10."""
SEED = 3


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    """Before a result changes the working tree."""
    return where()


@pytest.mark.parametrize("api_servers", ANSWERS)
def test_every_answer_is_measured_once_and_no_process_grows(
    api_servers: int, here: dict[str, Any], tmp_path: Path
) -> None:
    with Server(["demo", "--api-server-count", str(api_servers), *FEW_BLOCKS], tmp_path / "log") as server:
        server.wait_until_ready()
        memory, began = Memory(server.process.pid), time.monotonic()
        tally = asyncio.run(soak(server.base, ANSWERS[api_servers], SEED, memory.sample))
        found = {
            "where": here,
            **tally.plain(),
            "seconds": round(time.monotonic() - began),
            "counters": counters(server),
            "cpu_seconds": memory.cpu_seconds(),
            "memory_mib": {name: trend._asdict() for name, trend in memory.trends().items()},
        }
        log = server.log
    record(f"{api_servers} API servers", found)
    assert not tally.wrong, tally.complaints
    assert {name: found["counters"][name] for name in ZERO} == dict.fromkeys(ZERO, 0)
    assert {name: trend for name, trend in found["memory_mib"].items() if trend["growth"] > GROWTH} == {}
    assert "Traceback" not in log
    answering = [seconds for name, seconds in found["cpu_seconds"].items() if name.startswith("VLLM::APIServer")]
    assert tally.left and found["counters"][PREEMPTIONS] and min(answering, default=1) > max(answering, default=1) / 10


def counters(server: Server) -> dict[str, float]:
    """Of /metrics: all API servers and engines together."""
    text = httpx.get(f"{server.base}/metrics").text
    found = {name: re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M) for name in (*ZERO, PREEMPTIONS)}
    return {name: sum(map(float, values)) for name, values in found.items() if values}


def record(run: str, found: dict[str, Any]) -> None:
    """Write what was found, whether it passes or not."""
    runs = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(runs | {run: found}, indent=2) + "\n")
