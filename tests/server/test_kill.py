"""A process that dies takes the server with it: nothing goes on half-capped."""

import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]

BODY = {"model": "demo", "max_tokens": 1900, "ignore_eos": True, "messages": [{"role": "user", "content": "hi"}]}
ASKING = 48
"""Enough that most are open when the process is killed: the demo decodes a step in about a millisecond."""
IN_FLIGHT = 1.0
"""Seconds in which an answer that was complete before the kill may still arrive."""


@pytest.mark.parametrize("victim", ["VLLM::Worker", "VLLM::EngineCore"])
def test_a_killed_process_ends_the_server_and_every_open_answer(victim: str, tmp_path: Path) -> None:
    ended: list[tuple[float, int]] = []

    def ask(base: str) -> None:
        try:
            status = httpx.post(f"{base}/v1/chat/completions", json=BODY, timeout=60).status_code
        except httpx.HTTPError:
            status = 0
        ended.append((time.monotonic(), status))

    with Server(["demo"], tmp_path / "log") as server:
        server.wait_until_ready()
        children = psutil.Process(server.process.pid).children(recursive=True)
        (process,) = [child for child in children if victim in " ".join(child.cmdline())]
        asking = [threading.Thread(target=ask, args=(server.base,)) for _ in range(ASKING)]
        for thread in asking:
            thread.start()
        time.sleep(0.5)
        process.kill()
        killed = time.monotonic()
        server.process.wait(60)
        for thread in asking:
            thread.join()
    late = [status for when, status in ended if when > killed + IN_FLIGHT]
    assert len(ended) == ASKING and 200 not in late
    assert any(status != 200 for _, status in ended)
