"""Waves of requests: `concurrency` of them at once, and the next ones when all have been answered.

The amount of work is fixed and the time is measured, so two arms answer the same prompts with the same number of
tokens. Prompts are random token ids, never the same twice in a run, so that no prefix cache helps; answers are
greedy and always as long as was asked for.

Waves, because a request that reaches a busy engine may wait until it rests: with steps of 3 ms on two cores, little
else gets to run. Connections that ask again on their own fall out of step by chance and then stay so, and the same
server is half as fast in one block as in the next.

The client shares the machine with the server it measures: bodies are made before the clock starts, and of a body
that comes back only the count of its tokens is read. With answers of several tokens one request of each wave is
streamed: its gaps are the inter-token latencies.
"""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

import aiohttp
import numpy as np

TIMEOUT: Final = aiohttp.ClientTimeout(total=600)
KEEP_ALIVE: Final = 1.0
"""Seconds that a connection may rest before it is closed: the server closes its own after 5."""
HEADERS: Final = {"Content-Type": "application/json"}
PROFILE_HEADER: Final = "X-Mooring-Profile"
FIRST_WORD: Final = 3
"""Lower ids are special tokens of the models that are measured."""
_COMPLETION_TOKENS: Final = re.compile(rb'"completion_tokens":\s*(\d+)')


class CannotMeasure(Exception):
    """What the person who runs the benchmark can put right; shown in one line."""


class Workload(NamedTuple):
    """What every request of a block asks for."""

    name: str
    prompt_tokens: int
    answer_tokens: int

    @property
    def counted(self) -> str:
        """Which tokens its throughput is of."""
        return "prompt" if self.answer_tokens == 1 else "generated"

    def tokens(self, requests: int) -> int:
        return requests * (self.prompt_tokens if self.counted == "prompt" else self.answer_tokens)


class Ask(NamedTuple):
    """One request."""

    body: bytes
    streamed: bool
    profile: str | None
    """What the response's header must say; None where there must be no such header."""


@dataclass(slots=True)
class Heard:
    """What came back in one pass; seconds."""

    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    """Of the streamed requests."""
    bodies: list[bytes] = field(default_factory=list)
    """Of the answers that were not streamed, where they are kept."""
    seconds: float = 0.0
    client_cpu: float = 0.0


def add(total: Any, part: Any) -> None:
    """Sum what was heard in two passes into the first."""
    for name in (one.name for one in fields(total)):
        setattr(total, name, getattr(total, name) + getattr(part, name))


class Target(NamedTuple):
    """Where requests go, and under which profiles: the i-th request takes the i-th of them, over and over."""

    url: str
    model: str
    vocabulary: int
    asked: Sequence[str | None]
    """Profile to ask for; None asks for none."""
    answered: Sequence[str | None]
    """Profile that the header of the answer must name; None: there must be no such header."""


def asks(target: Target, workload: Workload, requests: int, seed: Sequence[int], streaming: bool) -> list[Ask]:
    """Equal seeds make equal prompts, whatever the target."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(FIRST_WORD, target.vocabulary, (requests, workload.prompt_tokens)).tolist()
    return [_ask(target, workload, i, prompt, streaming) for i, prompt in enumerate(prompts)]


def _ask(target: Target, workload: Workload, number: int, prompt: list[int], streamed: bool) -> Ask:
    body: dict[str, Any] = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": workload.answer_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    place = number % len(target.asked)
    if target.asked[place] is not None:
        body["vllm_xargs"] = {"mooring_profile": target.asked[place]}
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Ask(json.dumps(body).encode(), streamed, target.answered[place])


class Pass(NamedTuple):
    """A number of requests that are sent and waited for."""

    target: Target
    workload: Workload
    requests: int
    concurrency: int
    seed: tuple[int, ...]
    keep: bool = False
    """Whether the bodies of answers are kept."""


def run(given: Pass) -> Heard:
    """Send all requests and wait for their answers; CannotMeasure where one is not what was asked for."""
    plain = asks(given.target, given.workload, given.requests, given.seed, streaming=False)
    streams = given.workload.answer_tokens > 1
    streamed = asks(given.target, given.workload, given.requests, given.seed, streaming=True) if streams else plain
    return asyncio.run(_run(given, plain, streamed))


async def _run(given: Pass, plain: Sequence[Ask], streamed: Sequence[Ask]) -> Heard:
    heard = Heard()
    connector = aiohttp.TCPConnector(limit=given.concurrency, keepalive_timeout=KEEP_ALIVE)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
        began, cpu = time.perf_counter(), time.process_time()
        try:
            for first in range(0, given.requests, given.concurrency):
                wave = [streamed[first], *plain[first + 1 : first + given.concurrency]]
                async with asyncio.TaskGroup() as group:
                    for ask in wave:
                        group.create_task(_send(session, given, ask, heard))
        except* (aiohttp.ClientError, TimeoutError, OSError) as broken:
            raise CannotMeasure(f"the server broke off: {broken.exceptions[0]!r}") from None
        except* CannotMeasure as wrong:
            raise wrong.exceptions[0] from None
        heard.seconds, heard.client_cpu = time.perf_counter() - began, time.process_time() - cpu
    return heard


async def _send(session: aiohttp.ClientSession, given: Pass, ask: Ask, heard: Heard) -> None:
    began = time.perf_counter()
    async with session.post(given.target.url, data=ask.body, headers=HEADERS) as response:
        if response.status != 200:
            raise CannotMeasure(f"the server answered {response.status}: {(await response.text())[:300]}")
        body = await _listen(response, began, heard) if ask.streamed else await response.read()
    heard.latencies.append(time.perf_counter() - began)
    if given.keep and not ask.streamed:
        heard.bodies.append(body)
    _check(ask, given.workload, response.headers.get(PROFILE_HEADER), body)


async def _listen(response: aiohttp.ClientResponse, began: float, heard: Heard) -> bytes:
    """Note when tokens come; return the end of the stream, which holds its usage. Tokens that come together share
    their gap."""
    last, tail = 0.0, b""
    while chunk := await response.content.readany():
        now, tail = time.perf_counter(), (tail + chunk)[-2000:]
        tokens = chunk.count(b'"text":')
        if tokens and last:
            heard.gaps.extend([(now - last) / tokens] * tokens)
        elif tokens:
            heard.first_tokens.append(now - began)
        last = now if tokens else last
    return tail


def _check(ask: Ask, workload: Workload, profile: str | None, body: bytes) -> None:
    if profile != ask.profile:
        raise CannotMeasure(f"the answer ran under profile {profile!r}, and this arm is {ask.profile!r}")
    found = _COMPLETION_TOKENS.findall(body)
    if not found or int(found[-1]) != workload.answer_tokens:
        raise CannotMeasure(f"{workload.answer_tokens} tokens were asked for, and this came: {body[-300:]!r}")


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Milliseconds at p20, p50, p80 and p99; None of nothing."""
    if not seconds:
        return None
    values = np.percentile(np.asarray(seconds) * 1000, (20, 50, 80, 99))
    return {name: round(float(value), 4) for name, value in zip(("p20", "p50", "p80", "p99"), values, strict=True)}
