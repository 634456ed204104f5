"""A thousand streams at once that never rest: each asks again as soon as its answer has ended."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

STREAMS: Final = 1000
PROFILES: Final = ("off", "strong")
"""Half of the streams each."""
TOKENS: Final = 48
LIMIT: Final = 300.0
"""Seconds in which an answer must have come: most of a thousand wait for a place in the batch."""
DONE: Final = b"data: [DONE]"
COMPLETE: Final = b'"complete":true'
KEPT: Final = 20
JSON: Final = {"Content-Type": "application/json"}


@dataclass
class Heard:
    """What has come so far."""

    answers: Counter[str] = field(default_factory=Counter)
    """By profile."""
    errors: Counter[str] = field(default_factory=Counter)
    most: int = 0
    """Streams that were open at once."""
    flying: int = 0

    def plain(self) -> dict[str, Any]:
        errors = dict(self.errors.most_common(KEPT))
        return {"answers": dict(self.answers), "errors": errors, "streams_at_once": self.most}


async def stream_for(base: str, seconds: float, watch: Callable[[int], None]) -> Heard:
    """Until the time is over and every answer that was begun has ended."""
    heard, until, numbers = Heard(), time.monotonic() + seconds, itertools.count()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0)
    async with aiohttp.ClientSession(base, connector=connector, timeout=aiohttp.ClientTimeout(LIMIT)) as session:

        async def stream(number: int) -> None:
            while time.monotonic() < until:
                await _ask(session, PROFILES[number % len(PROFILES)], next(numbers), heard)
                watch(heard.answers.total())

        await asyncio.gather(*(stream(number) for number in range(STREAMS)))
    return heard


async def _ask(session: aiohttp.ClientSession, profile: str, number: int, heard: Heard) -> None:
    body = {
        "model": f"demo:{profile}", "stream": True, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 1.0,
        "seed": number, "messages": [{"role": "user", "content": f"What is the sea to number {number}?"}],
    }  # fmt: skip
    heard.flying += 1
    heard.most = max(heard.most, heard.flying)
    try:
        async with session.post("/v1/chat/completions", data=json.dumps(body), headers=JSON) as reply:
            raw = await reply.read()
        if fault := _fault(reply, raw, profile):
            heard.errors[fault] += 1
        else:
            heard.answers[profile] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        heard.errors[repr(error)[:200]] += 1
    finally:
        heard.flying -= 1


def _fault(reply: aiohttp.ClientResponse, raw: bytes, profile: str) -> str:
    if reply.status != 200:
        return f"{reply.status}: {raw[:150]!r}"
    if not raw.rstrip().endswith(DONE):
        return "a stream that did not end"
    if reply.headers.get("X-Mooring-Profile") != profile:
        return f"an answer under {reply.headers.get('X-Mooring-Profile')}"
    return "" if COMPLETE in raw else "an answer without all of its readings"
