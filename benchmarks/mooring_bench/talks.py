"""Blocks of conversations: every turn is sent with the answers that the server itself gave before.

A conversation's turns follow each other, `concurrency` conversations at a time; a turn that fails ends its
conversation. Answers are streamed and greedy.
"""

import asyncio
import itertools
import json
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import httpx

from mooring_bench.arms import Arm
from mooring_bench.asking import PROFILE_HEADER, complaint
from mooring_bench.heard import Heard
from mooring_bench.prompts import Prompt

TIMEOUT: Final = httpx.Timeout(600.0, connect=10.0)
DATA: Final = "data: "
DONE: Final = "[DONE]"


class Asked(NamedTuple):
    """What is the same in every request of a block."""

    tokens: int
    salt: str

    def salt_of(self, arm: Arm) -> str:
        """Arms that share a batch share no cache."""
        return f"{self.salt} {zlib.crc32(arm.name.encode()):08x}"


class Talks(NamedTuple):
    """Conversations to hold, salted by block and arm: a prefix cache knows nothing from earlier blocks."""

    prompts: Sequence[Prompt]
    output_tokens: int

    def send(self, arm: Arm, requests: int, concurrency: int, seed: int, salt: str) -> Heard:
        """`requests` conversations of one arm."""
        asked = Asked(self.output_tokens, salt)
        (heard,) = asyncio.run(_hold([arm], _drawn(self.prompts, requests, seed), concurrency, asked))
        return heard

    def send_mixed(self, arms: Sequence[Arm], requests: int, concurrency: int, seed: int, salt: str) -> list[Heard]:
        """`requests` conversations of each arm, in turn, all at once."""
        drawn = _drawn(self.prompts, requests, seed)
        jobs = [prompt for prompt in drawn for _ in arms]
        return asyncio.run(_hold(arms, jobs, concurrency, Asked(self.output_tokens, salt)))


def _drawn(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` of them in an order of this seed, again from the beginning where there are fewer."""
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    return list(itertools.islice(itertools.cycle(shuffled), count))


async def _hold(arms: Sequence[Arm], jobs: Sequence[Prompt], concurrency: int, asked: Asked) -> list[Heard]:
    found = [Heard() for _ in arms]
    queue = iter([(arms[i % len(arms)], found[i % len(arms)], prompt) for i, prompt in enumerate(jobs)])
    began = time.perf_counter()
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(keepalive_expiry=1.0)) as client:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(_work(client, queue, asked))
    for heard in found:
        heard.seconds = time.perf_counter() - began
    return found


async def _work(client: httpx.AsyncClient, queue: Iterator[tuple[Arm, Heard, Prompt]], asked: Asked) -> None:
    for arm, heard, prompt in queue:
        said: list[dict[str, str]] = []
        for turn in prompt.turns():
            said += turn
            try:
                answer = await _turn(client, arm, said, asked, heard)
            except (httpx.HTTPError, _Failed) as error:
                heard.errors.append(str(error) or type(error).__name__)
                break
            said.append({"role": "assistant", "content": answer})


class _Failed(Exception):
    """The server did not answer as it should."""


async def _turn(
    client: httpx.AsyncClient, arm: Arm, said: Sequence[dict[str, str]], asked: Asked, heard: Heard
) -> str:
    body = {
        "model": arm.model, "messages": list(said), "max_tokens": asked.tokens, "temperature": 0.0, "stream": True,
        "stream_options": {"include_usage": True}, "cache_salt": asked.salt_of(arm),
    }  # fmt: skip
    began, last, first, gaps, text, generated = time.perf_counter(), 0.0, 0.0, [], [], 0
    url = f"{arm.base}/v1/chat/completions"
    async with client.stream("POST", url, json=body, headers=arm.all_headers) as reply:
        if reply.status_code != 200:
            await reply.aread()
            raise _Failed(f"{reply.status_code}: {complaint(reply)}")
        if (ran := reply.headers.get(PROFILE_HEADER)) != arm.profile:
            raise _Failed(f"an answer of arm {arm.name!r} ran under {ran!r}")
        async for line in reply.aiter_lines():
            if not line.startswith(DATA) or line.endswith(DONE):
                continue
            frame: dict[str, Any] = json.loads(line.removeprefix(DATA))
            if "error" in frame:
                raise _Failed(str(frame["error"]))
            generated = (frame.get("usage") or {}).get("completion_tokens", generated)
            words = "".join(choice["delta"].get("content") or "" for choice in frame.get("choices", ()))
            if not words:
                continue
            now = time.perf_counter()
            if first:
                gaps.append(now - last)
            first, last = first or now - began, now
            text.append(words)
    if not generated:
        raise _Failed("an answer without a token")
    heard.answered(generated, first or time.perf_counter() - began, gaps, time.perf_counter() - began)
    return "".join(text)
