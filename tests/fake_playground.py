"""A server for the playground's tests: the page itself, and streams made up in vLLM's shape with Mooring's members.

Every word of an answer is one token. Off, its projection falls with each turn; capped it is the same and the cap lifts
it to the floor. What the server says in the end is what it said token by token, so the page's numbers can be checked.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from fake_openai import Fake, Messages
from fake_openai import served as serve
from mooring_server import playground

DEFAULT_MEAN: Final = {3: 12.0, 4: 14.0, 5: 16.0}
ROLE_MEAN: Final = {3: -4.0, 4: -6.0, 5: -8.0}
FLOORS: Final = {"off": {}, "calm": {4: 4.0, 5: 4.0}, "strong": {4: 11.0, 5: 13.0}}
MONITORED: Final = 3
DIGEST: Final = "0123456789abcdef" * 4


@dataclass
class FakeServer(Fake):
    profiles: tuple[str, ...] = tuple(FLOORS)
    not_selectable: tuple[str, ...] = ()
    key: str | None = None
    model: str = "fake"
    tokens_per_frame: int = 1
    pause: float = 0.0
    """Seconds between frames."""
    hold_after: int | None = None
    """Frames of text after which a stream stands still until the client goes, or `cut` is set."""
    cut: threading.Event = field(default_factory=threading.Event)
    """Breaks the connections that stand still."""
    end_after: int | None = None
    """Frames of text after which the stream ends as if it were whole, but for its end."""
    readings: bool = True
    thinking: str = ""
    truncated: bool = False
    """Whether replies say that not all tokens have numbers of their own."""
    sessions: list[dict[str, Any]] = field(default_factory=list)
    """Of the history, worst first; pages hold two."""
    left: list[str] = field(default_factory=list)
    """Profiles of the requests whose client went away in the middle."""
    replies: list[dict[str, Any]] = field(default_factory=list)
    """The `mooring` object of every answer that came to its end, with what was asked under "body"."""

    def routes(self, root_path: str = "") -> list[BaseRoute]:
        api: list[BaseRoute] = [
            Route("/v1/models", self.guarded(self.models)),
            Route("/v1/mooring/profiles", self.guarded(self.told_profiles)),
            Route("/v1/mooring/axis", self.guarded(self.told_axis)),
            Route("/v1/mooring/sessions", self.guarded(self.told_sessions)),
            Route("/v1/chat/completions", self.guarded(self.chat), methods=["POST"]),
            *playground.router.routes,
        ]
        return [Mount(root_path, routes=api)] if root_path else api

    def guarded(self, endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def checked(request: Request) -> Response:
            if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            answer: Response = await endpoint(request)
            return answer

        return checked

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.model}]})

    async def told_profiles(self, request: Request) -> Response:
        return JSONResponse({"default": self.profiles[-1], "profiles": [self._profile(name) for name in self.profiles]})

    def _profile(self, name: str) -> dict[str, Any]:
        remaps = {str(layer): {"scale": 1.0, "shift": 0.0, "floor": floor, "ceiling": None}
                  for layer, floor in FLOORS.get(name, {}).items()}  # fmt: skip
        selectable = name not in self.not_selectable
        return {"name": name, "default": name == self.profiles[-1], "selectable": selectable, "positions": "all",
                "digest": "", "axis": DIGEST, "layers": remaps}  # fmt: skip

    async def told_axis(self, request: Request) -> Response:
        layers = {str(layer): {"default_mean": mean, "role_mean": ROLE_MEAN[layer]}
                  for layer, mean in DEFAULT_MEAN.items()}  # fmt: skip
        return JSONResponse({"digest": DIGEST, "model": self.model, "hidden_size": 8, "model_layers": 8,
                             "monitored_layer": MONITORED, "layers": layers})  # fmt: skip

    async def told_sessions(self, request: Request) -> Response:
        assert request.query_params["order"] == "drift"
        start = int(request.query_params.get("cursor", 0))
        more = str(start + 2) if len(self.sessions) > start + 2 else None
        return JSONResponse({"sessions": self.sessions[start : start + 2], "next": more})

    def _completion(self, messages: Messages, profile: str | None) -> Response:
        assert profile is not None
        frames = self._frames(self.bodies[-1], profile)
        return StreamingResponse(frames, media_type="text/event-stream", headers={"X-Mooring-Profile": profile})

    async def _frames(self, body: dict[str, Any], profile: str) -> AsyncIterator[bytes]:
        said = self.answer(body["messages"], profile).split()
        words = [word if i == 0 else f" {word}" for i, word in enumerate(said)]
        thoughts = self.thinking.split()
        made = Made(body, profile, len(thoughts) + len(words), len(thoughts))
        finished = False
        try:
            yield made.frame({"role": "assistant", "content": ""}, 0)
            for i, thought in enumerate(thoughts):
                yield made.frame({"reasoning": thought + " "}, i + 1)
            for number, start in enumerate(range(0, len(words), self.tokens_per_frame), 1):
                await asyncio.sleep(self.pause)
                until = min(start + self.tokens_per_frame, len(words))
                count = len(thoughts) + until
                tokens = made.tokens(count - 1) if self.readings else None
                yield made.frame({"content": "".join(words[start:until])}, count, tokens=tokens)
                while number == self.hold_after:
                    await asyncio.sleep(0.02)
                    if self.cut.is_set():
                        raise ConnectionError("cut by the test")
                if number == self.end_after:
                    finished = True
                    return
            count = len(thoughts) + len(words) + 1  # with the end-of-text token, which is never measured
            summary = made.summary() | {"tokens": made.tokens(count - 1) | {"truncated": self.truncated}}
            self.replies.append(summary | {"body": body})
            yield made.frame({"content": ""}, count, "stop", **(summary if self.readings else {}))
            yield b"data: [DONE]\n\n"
            finished = True
        finally:
            if not finished:
                self.left.append(profile)


class Made:
    """One answer's numbers, and the frames that tell them."""

    def __init__(self, body: dict[str, Any], profile: str, count: int, thoughts: int) -> None:
        self.profile, self.told = profile, thoughts
        self.turn = 1 + sum(message["role"] == "assistant" for message in body["messages"])
        fall = 0.0 if profile == "strong" else 4.0 * (self.turn - 1)
        self.index = np.arange(thoughts, count)
        self.projections = {
            layer: np.round(mean - fall - 3 * np.sin(self.index + self.turn), 4) for layer, mean in DEFAULT_MEAN.items()
        }
        floors = {layer: FLOORS.get(profile, {}).get(layer, -np.inf) for layer in DEFAULT_MEAN}
        self.lifts = {layer: np.maximum(floors[layer] - p, 0.0) for layer, p in self.projections.items()}

    def frame(self, delta: dict[str, str], count: int, finish: str | None = None, **mooring: Any) -> bytes:
        body: dict[str, Any] = {
            "id": "chatcmpl-fake", "object": "chat.completion.chunk", "model": "fake",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
            "usage": {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count},
        }  # fmt: skip
        if mooring.get("tokens") is not None:
            body["mooring"] = mooring
        return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"

    def tokens(self, until: int) -> dict[str, Any]:
        """Numbers of the tokens that have none yet, up to one."""
        span = slice(self.told - int(self.index[0]) if len(self.index) else 0, None)
        kept = self.index[span] < until
        self.told = max(self.told, until)
        return {
            "index": self.index[span][kept].tolist(),
            "projection": {str(layer): p[span][kept].tolist() for layer, p in self.projections.items()},
            "lift": {str(layer): p[span][kept].tolist() for layer, p in self.lifts.items()},
        }

    def summary(self) -> dict[str, Any]:
        acts = list(FLOORS.get(self.profile, {}))
        lifted = np.array([lift > 0 for lift in self.lifts.values()])
        projection = float(self.projections[MONITORED].mean())
        return {
            "profile": self.profile, "session": None, "turn": self.turn, "projection": projection,
            "drift": (DEFAULT_MEAN[MONITORED] - projection) / (DEFAULT_MEAN[MONITORED] - ROLE_MEAN[MONITORED]),
            "monitored_layer": MONITORED, "lifted_share": float(lifted.any(axis=0).mean()),
            "mean_lift": float(np.mean([self.lifts[layer].mean() for layer in acts])) if acts else 0.0,
            "measured_tokens": len(self.index), "complete": True,
            "layers": {str(layer): {"projection": float(p.mean()), "lift": float(self.lifts[layer].mean()),
                                    "lifted_share": float((self.lifts[layer] > 0).mean())}
                       for layer, p in self.projections.items()},
        }  # fmt: skip


def served(fake: FakeServer, root_path: str = "") -> AbstractContextManager[FakeServer]:
    return serve(fake, fake.routes(root_path))
