"""A thousand streams for ten minutes, capped and uncapped: no error, and no process grows once it is warm.

Results go to tests/results/streams.json, to be committed with those of `make verify`.
"""

import asyncio
import json
import resource
import time
from pathlib import Path

import pytest

from servers import Server
from soak.memory import Memory
from soak.streams import PROFILES, STREAMS, stream_for
from verify import where

pytestmark = [pytest.mark.engine, pytest.mark.verify]

RESULT = Path(__file__).parents[1] / "results" / "streams.json"
SECONDS = 600.0
GROWTH = 6.0
"""MiB that a process may grow in the seven minutes after its warm-up; what is open at once is some hundreds of MiB."""


def test_a_thousand_streams_for_ten_minutes(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    with Server(["demo"], tmp_path / "log") as server:
        server.wait_until_ready()
        memory, began = Memory(server.process.pid), time.monotonic()
        heard = asyncio.run(stream_for(server.base, SECONDS, memory.sample))
        found = {
            "where": where(),
            **heard.plain(),
            "seconds": round(time.monotonic() - began),
            "memory_mib": {name: trend._asdict() for name, trend in memory.trends().items()},
        }
        log = server.log
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    assert heard.errors == {} and heard.most == STREAMS
    assert set(heard.answers) == set(PROFILES) and min(heard.answers.values()) > STREAMS
    assert {name: trend for name, trend in found["memory_mib"].items() if trend["growth"] > GROWTH} == {}
    assert "Traceback" not in log
