"""Many clients at once, some of whom hang up before they have their answer."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from soak.asks import Ask, draw
from soak.replies import complaints, parse

CLIENTS: Final = 48
LIMIT: Final = 120.0
"""Seconds in which every answer must have come whose client waits."""
KEEP_ALIVE: Final = 1.0
"""Seconds that a connection may rest before it is closed: the server closes its own after 5."""
KEPT: Final = 20
"""Complaints that are kept; all are counted."""


@dataclass
class Tally:
    """What has come of a soak so far."""

    finished: Counter[str] = field(default_factory=Counter)
    """Answers by endpoint, a choice each."""
    tokens: int = 0
    left: int = 0
    """Requests whose client hung up before they were answered."""
    wrong: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return self.finished.total()

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"answers": dict(self.finished), "tokens": self.tokens, "hung_up": self.left, "wrong": self.wrong}
        return counts | ({"complaints": self.complaints} if self.complaints else {})

    def add(self, ask: Ask, tokens: int, found: list[str]) -> None:
        self.finished[ask.endpoint] += ask.choices
        self.tokens += tokens
        self.wrong += bool(found)
        if found and len(self.complaints) < KEPT:
            self.complaints.append(f"{'; '.join(found)}: {ask}")


async def soak(base: str, answers: int, seed: int, watch: Callable[[int], None]) -> Tally:
    """Ask until there are so many answers; `watch` is told how many there are."""
    tally, rng = Tally(), random.Random(seed)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
    async with aiohttp.ClientSession(base, connector=connector, timeout=aiohttp.ClientTimeout(LIMIT)) as session:

        async def client() -> None:
            while tally.answers < answers:
                await _ask(session, draw(rng), tally)
                watch(tally.answers)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return tally


async def _ask(session: aiohttp.ClientSession, ask: Ask, tally: Tally) -> None:
    body, began = json.dumps(ask.body()).encode(), time.monotonic()
    try:
        async with (
            asyncio.timeout(ask.patience),
            session.post(f"/v1/{ask.endpoint}", data=body, headers=ask.headers) as response,
        ):
            raw = await response.read()
    except TimeoutError:
        if ask.patience is None:
            tally.add(ask, 0, [f"no answer in {LIMIT:.0f} s"])
        tally.left += ask.patience is not None
        return
    except aiohttp.ClientError as error:
        tally.add(ask, 0, [f"{error!r} after {time.monotonic() - began:.1f} s"])
        return
    if response.status != 200:
        tally.add(ask, 0, [f"{response.status} {raw[:300]!r}"])
        return
    reply = parse(ask, response.headers.get("X-Mooring-Profile"), raw)
    tally.add(ask, reply.tokens or 0, list(complaints(ask, reply)))
