"""A server that streams at a known pace, some profiles slower than others: for tests of what loads one."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from fake_openai import Fake

HEADER = "X-Mooring-Profile"


@dataclass
class Paced(Fake):
    """Every token takes `pace` seconds times the `slower` of its profile."""

    pace: float = 0.004
    slower: Mapping[str, float] = field(default_factory=dict)
    dies_after: int = 1_000_000
    """Requests; all later ones are answered with 500."""
    asked: Counter[str] = field(default_factory=Counter)
    salts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Profile -> the cache salts that its requests had."""
    flying: Counter[str] = field(default_factory=Counter)
    together: set[tuple[str, ...]] = field(default_factory=set)
    """Sets of profiles that were in flight at once."""

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/models", self.models),
            Route("/version", self.version),
            Route("/v1/mooring/axis", self.told_axis),
            Route("/metrics", self.metrics),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
        ]

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(f'vllm:prefix_cache_hits_total{{engine="0"}} {16.0 * self.asked.total()}\n')

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        named = body["model"].removeprefix("demo").removeprefix(":")
        asked = request.headers.get(HEADER) or named
        if self.asked.total() >= self.dies_after:
            return JSONResponse({"error": {"message": "EngineDeadError"}}, 500)
        if asked and asked not in self.profiles:
            return JSONResponse({"error": {"message": f"{asked!r} is not a profile that can be chosen here"}}, 400)
        profile = asked or (self.profiles[-1] if self.profiles else "")
        self.asked[profile] += 1
        self.salts[profile].add(body.get("cache_salt", ""))
        headers = {HEADER: self.runs_under(profile)} if profile else {}
        tokens = body.get("max_completion_tokens") or body["max_tokens"]
        if not body.get("stream"):
            return JSONResponse({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}, headers=headers)
        chat = request.url.path.endswith("/chat/completions")
        return StreamingResponse(self._frames(profile, tokens, chat), media_type="text/event-stream", headers=headers)

    async def _frames(self, profile: str, tokens: int, chat: bool) -> AsyncIterator[str]:
        self.flying[profile] += 1
        self.together.add(tuple(sorted(name for name, count in self.flying.items() if count)))
        try:
            began, step = time.monotonic(), self.pace * self.slower.get(profile, 1.0)
            for number in range(tokens):  # by the clock, so that what a token costs here does not add to its step
                await asyncio.sleep(began + (number + 1) * step - time.monotonic())
                choice: dict[str, Any] = {"delta": {"content": " a"}} if chat else {"text": " a"}
                yield f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n"
            yield f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 4, 'completion_tokens': tokens}})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.flying[profile] -= 1
