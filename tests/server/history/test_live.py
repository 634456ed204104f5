"""The stream of turns, over real HTTP; no engine: POST /turn ends a turn."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from histories import eventually, record
from mooring_server.history import live as module
from mooring_server.history.live import Live
from mooring_server.history.routes import Kept, router
from mooring_server.history.shape import turn_object
from servers import free_port

STREAM = "/v1/mooring/turns/stream"


class Served:
    """A real server in a thread; it keeps no history."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.include_router(router)
        self.app.post("/turn")(self._turn)
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=self.port, log_level="error"))
        self.live = Live(stopping=lambda: self.server.should_exit)
        self.app.state.mooring_history = Kept(None, self.live)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        eventually(lambda: self.server.started)

    async def _turn(self, turns: int = 1) -> None:
        for turn in range(turns):
            self.live.put(record(turn=turn, session="<b>é"))

    def end_turns(self, turns: int = 1) -> None:
        httpx.post(f"{self.base}/turn", params={"turns": turns}).raise_for_status()

    def stop(self) -> float:
        """Seconds until it had."""
        before = time.monotonic()
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        return time.monotonic() - before


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.stop()


def lines(response: httpx.Response) -> Iterator[str]:
    return (line for line in response.iter_lines() if line)


def test_everybody_who_listens_hears_every_turn(served: Served) -> None:
    with httpx.stream("GET", served.base + STREAM) as one, httpx.stream("GET", served.base + STREAM) as other:
        assert one.headers["content-type"].startswith("text/event-stream")
        first, second = lines(one), lines(other)
        assert next(first) == next(second) == ": alive"
        served.end_turns(3)
        for heard in (first, second):
            for turn in range(3):
                assert next(heard) == "event: turn"
                told = json.loads(next(heard).removeprefix("data: "))
                assert told == json.loads(json.dumps(turn_object(record(turn=turn, session="<b>é"))))
    served.end_turns()
    eventually(lambda: not served.live._listeners)


def test_a_quiet_stream_is_kept_alive(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.1)
    monkeypatch.setattr(module, "LOOK", 0.05)
    with httpx.stream("GET", served.base + STREAM) as response:
        heard = lines(response)
        assert [next(heard) for _ in range(3)] == [": alive"] * 3


def test_a_stream_ends_with_the_server_and_does_not_hold_it_up(served: Served) -> None:
    with httpx.stream("GET", served.base + STREAM) as response:
        heard = lines(response)
        assert next(heard) == ": alive"
        assert served.stop() < 10
        assert list(heard) == []


def test_a_listener_who_does_not_listen_is_dropped_and_told(served: Served) -> None:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        slow.connect(("127.0.0.1", served.port))
        slow.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        slow.settimeout(20)
        heard = b""
        while b"alive" not in heard:  # the head may come before the first event
            heard += slow.recv(4000)
        for _ in range(10):  # more than the buffers on the way can hold
            served.end_turns(2000)
        assert not served.live._listeners
        rest = b"".join(iter(lambda: slow.recv(1 << 20), b""))
        assert rest.endswith(b"0\r\n\r\n") and b"event: dropped" in rest[-300:]


def test_only_so_many_may_listen(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTENERS", 1)
    with httpx.stream("GET", served.base + STREAM) as response:
        heard = lines(response)  # kept: the connection ends with it
        assert next(heard) == ": alive"
        assert httpx.get(served.base + STREAM).status_code == 503
