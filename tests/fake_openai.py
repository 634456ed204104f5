"""An OpenAI-compatible server with scripted answers, in this process: for tests of what asks one."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mooring_axes import demo
from mooring_bench.identity import demo_axis

Messages = list[dict[str, str]]


@dataclass
class Fake:
    """What it serves. With no `profiles` it is a server without Mooring."""

    answer: Callable[[Messages, str | None], str] = lambda messages, profile: "I think that rain is good."
    profiles: tuple[str, ...] = ()
    """Those that may be chosen; the last is the default."""
    reading: Callable[[Messages, str], dict[str, Any] | None] = lambda messages, profile: None
    before: Callable[[int], Response | None] = lambda number: None
    """Called with the number of the chat request, from 1; what it returns is sent instead of an answer."""
    runs_under: Callable[[str], str] = lambda profile: profile
    """What the header says of a request that asked for a profile."""
    root: str = str(demo.MODEL_DIR)
    """What the model was loaded from."""
    axis: str = field(default_factory=demo_axis)
    """Digest that it tells of, where there are profiles."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Every chat request, as it came."""
    keys: set[str] = field(default_factory=set)
    """What requests were authorized with; empty text = nothing."""
    url: str = ""

    async def models(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization", ""))
        names = ["demo", *(f"demo:{profile}" for profile in self.profiles)]
        return JSONResponse({"object": "list", "data": [{"id": name, "root": self.root} for name in names]})

    async def told_axis(self, request: Request) -> Response:
        if not self.profiles:
            return JSONResponse({"detail": "Not Found"}, 404)
        return JSONResponse({"digest": self.axis, "model": demo.MODEL_NAME})

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.0.fake"}) if self.profiles else JSONResponse({}, 404)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        if (instead := self.before(len(self.bodies))) is not None:
            return instead
        named = str(body["model"]).partition(":")[2] or None
        asked = body.get("vllm_xargs", {}).get("mooring_profile", named)
        if asked is not None and asked not in self.profiles:
            return JSONResponse({"error": {"message": f"{asked!r} is not a profile that can be chosen here"}}, 400)
        return self._completion(body["messages"], asked or (self.profiles[-1] if self.profiles else None))

    def _completion(self, messages: Messages, profile: str | None) -> Response:
        message = {"role": "assistant", "content": self.answer(messages, profile)}
        body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        if profile is None:
            return JSONResponse(body)
        if (reading := self.reading(messages, profile)) is not None:
            body["mooring"] = reading
        return JSONResponse(body, headers={"X-Mooring-Profile": self.runs_under(profile)})


AnyFake = TypeVar("AnyFake", bound=Fake)


@contextmanager
def served(fake: AnyFake, routes: Sequence[BaseRoute] | None = None) -> Iterator[AnyFake]:
    """Answer at `fake.url` until the end of the block; by its own `routes`, if there are any."""
    routes = routes or [
        Route("/v1/models", fake.models),
        Route("/version", fake.version),
        Route("/v1/mooring/axis", fake.told_axis),
        Route("/v1/chat/completions", fake.chat, methods=["POST"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        fake.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield fake
        finally:
            server.should_exit = True
            thread.join(10)
