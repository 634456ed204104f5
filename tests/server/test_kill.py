"""A process that dies takes the server with it: nothing goes on half-capped."""

import threading
from pathlib import Path

import httpx
import psutil
import pytest

from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]

BODY = {"model": "demo", "max_tokens": 1900, "ignore_eos": True, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("victim", ["VLLM::Worker", "VLLM::EngineCore"])
def test_a_killed_process_ends_the_server_and_no_answer_comes_uncapped(victim: str, tmp_path: Path) -> None:
    statuses: list[int] = []

    def ask(base: str) -> None:
        try:
            statuses.append(httpx.post(f"{base}/v1/chat/completions", json=BODY, timeout=60).status_code)
        except httpx.HTTPError:
            statuses.append(0)

    with Server(["demo"], tmp_path / "log") as server:
        server.wait_until_ready()
        asking = [threading.Thread(target=ask, args=(server.base,)) for _ in range(4)]
        for thread in asking:
            thread.start()
        children = psutil.Process(server.process.pid).children(recursive=True)
        (process,) = [child for child in children if victim in " ".join(child.cmdline())]
        process.kill()
        assert server.process.wait(60) is not None
        for thread in asking:
            thread.join()
    assert len(statuses) == 4 and 200 not in statuses
