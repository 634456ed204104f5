"""Waves of answers of different lengths, all streamed or none, and when the frame came in which each stream ended.

    gap        time between two frames of text of one stream; frames that come together share theirs
    last gap   the same, up to the frame with the finish reason: the one that waits for the answer's readings

A wave is one answer of each length, sent at once, and the next wave comes when all have ended (load.py says why). So
most streams end while others go on, as they do in a server at work, and not all in one step. As in load.py the
amount of work is fixed and the time is measured, and a body is not parsed.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import aiohttp

import load
from load import HEADERS, PROFILE_HEADER, TIMEOUT, Ask, CannotMeasure, Target, Workload

KEEP_ALIVE: Final = 1.0
"""Seconds that a connection may rest before it is closed: the server closes its own after 5."""
PROMPT_TOKENS: Final = 16
LENGTHS: Final = tuple(range(12, 108, 6))
"""Tokens of the answers of a wave, where nothing else is asked for."""
TEXT: Final = b'"text":'
FINISH: Final = b'"finish_reason":"'
READING: Final = b'"mooring":'
LOST: Final = b'"complete":false'
END: Final = 4000
"""Bytes at the end of a stream that hold its reading and its usage."""
_COMPLETION_TOKENS: Final = re.compile(rb'"completion_tokens":\s*(\d+)')


class Job(NamedTuple):
    """One request, and how many tokens its answer has."""

    ask: Ask
    tokens: int


Wave = list[Job]


class Pass(NamedTuple):
    """A number of waves that are sent and waited for."""

    target: Target
    waves: int
    seed: tuple[int, ...]
    streamed: bool
    measured: bool
    """Whether answers carry readings."""
    lengths: tuple[int, ...] = LENGTHS
    """Tokens of the answers of a wave."""


@dataclass(slots=True)
class Heard:
    """What came back in one pass; seconds."""

    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    last_gaps: list[float] = field(default_factory=list)
    lost: int = 0
    """Answers that went out before all of their readings had come."""
    seconds: float = 0.0
    client_cpu: float = 0.0


def waves(given: Pass) -> list[Wave]:
    """Equal seeds make equal prompts, whatever the target."""

    def of_length(length: int) -> list[Job]:
        workload = Workload("", PROMPT_TOKENS, length)
        asks = load.asks(given.target, workload, given.waves, (*given.seed, length), given.streamed)
        return [Job(ask, length) for ask in asks]

    return [list(wave) for wave in zip(*map(of_length, given.lengths), strict=True)]


def run(given: Pass) -> Heard:
    """Send all waves and wait for their answers; CannotMeasure where one is not what was asked for."""
    return asyncio.run(send(given, waves(given)))


async def send(given: Pass, made: Sequence[Wave]) -> Heard:
    heard = Heard()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
        began, cpu = time.perf_counter(), time.process_time()
        try:
            for wave in made:
                async with asyncio.TaskGroup() as group:
                    for job in wave:
                        group.create_task(_ask(session, given, job, heard))
        except* (aiohttp.ClientError, TimeoutError, OSError) as broken:
            raise CannotMeasure(f"the server broke off: {broken.exceptions[0]!r}") from None
        except* CannotMeasure as wrong:
            raise wrong.exceptions[0] from None
        heard.seconds, heard.client_cpu = time.perf_counter() - began, time.process_time() - cpu
    return heard


async def _ask(session: aiohttp.ClientSession, given: Pass, job: Job, heard: Heard) -> None:
    began = time.perf_counter()
    async with session.post(given.target.url, data=job.ask.body, headers=HEADERS) as response:
        if response.status != 200:
            raise CannotMeasure(f"the server answered {response.status}: {(await response.text())[:300]}")
        body = await listen(response.content, heard) if given.streamed else await response.read()
    heard.latencies.append(time.perf_counter() - began)
    heard.lost += body.count(LOST)
    _check(job, given, response.headers.get(PROFILE_HEADER), body)


async def listen(content: aiohttp.StreamReader, heard: Heard) -> bytes:
    """Note when text comes and when the stream ends; return its last bytes."""
    last, tail = 0.0, b""
    while chunk := await content.readany():
        tail = (tail + chunk)[-END:]
        if not (frames := chunk.count(TEXT)):
            continue
        now = time.perf_counter()
        gaps, last = [(now - last) / frames] * frames if last else [], now
        if FINISH in chunk and gaps:
            heard.last_gaps.append(gaps.pop())
        heard.gaps += gaps
    return tail


def _check(job: Job, given: Pass, profile: str | None, body: bytes) -> None:
    if profile != job.ask.profile:
        raise CannotMeasure(f"the answer ran under profile {profile!r}, and this arm is {job.ask.profile!r}")
    if (READING in body) != given.measured:
        raise CannotMeasure(f"readings are {'on' if given.measured else 'off'}, and this came: {body[-300:]!r}")
    found = _COMPLETION_TOKENS.findall(body)
    if not found or int(found[-1]) != job.tokens:
        raise CannotMeasure(f"{job.tokens} tokens were asked for, and this came: {body[-300:]!r}")
