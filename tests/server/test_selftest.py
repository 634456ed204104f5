"""The proof by requests, on an engine that lies in one way at a time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mooring_axes.errors import CannotServe
from mooring_hooks.table import ProfileEntry, Settings
from mooring_server.selftest import Answer, Prompt, Scale, Watch, probe_requests

SETTINGS = Settings(
    "t",
    "strong",
    16,
    (
        ProfileEntry("off", "", "all", True),
        ProfileEntry("strong", "d", "all", False),
        ProfileEntry("late", "r", "response", True),
        ProfileEntry("twin", "d", "all", True),
    ),
)
SCALE = Scale(block_size=16, prefix_caching=True, max_tokens=512, vocabulary=320)


@dataclass
class Engine:
    """Caps after layer 2 by 1.0, isolates its cache by digest, and maps rows rightly; each flag breaks one thing."""

    isolates: bool = True
    caches: bool = True
    reports: bool = True
    maps_rows: bool = True
    counts_rows: bool = True
    acts: bool = True
    finite: bool = True
    early: bool = False
    seen: set[str] = field(default_factory=set)
    readings: dict[str, Any] = field(default_factory=dict)

    async def ask(self, prompt: Prompt) -> Answer:
        entry = SETTINGS.entry(prompt.profile)
        key = (entry.digest if entry.positions == "all" else "") if self.isolates else ""
        cached = 32 if key in self.seen and self.caches else 0
        self.seen.add(key)
        if self.reports and "again" not in prompt.request_id:
            self.readings[prompt.request_id] = self._reading(entry, prompt, cached)
        return Answer(prompt.max_tokens, cached)

    def _reading(self, entry: ProfileEntry, prompt: Prompt, cached: int) -> dict[str, Any]:
        slot, length = SETTINGS.slot_of(entry.name), len(prompt.token_ids)
        positions = list(range(cached, length + prompt.max_tokens - (1 if self.counts_rows else 2)))
        slots = [0 if entry.positions == "response" and p < length else slot for p in positions]
        lifts = [1.0 if s else 0.0 for s in slots]
        after = [2.0 + (lift if self.acts else 0.0) for lift in lifts]
        before = [5.0 if self.early and slot == 1 else (1.0 if self.finite else float("nan"))] * len(positions)
        return {
            "positions": positions,
            "slots": slots if self.maps_rows else [0] * len(slots),
            "axis": 0,
            "projections": {2: before, 3: after},
            "lifts": {2: lifts, 3: [0.0] * len(lifts)},
        }

    async def begin(self, prefix: str) -> None:
        self.readings.clear()

    async def end(self, prefix: str) -> Sequence[dict[str, Any]]:
        return [dict(self.readings)]


def probe(engine: Engine, scale: Scale = SCALE) -> None:
    asyncio.run(probe_requests(SETTINGS, scale, engine.ask, Watch(engine.begin, engine.end)))


def test_an_engine_that_does_what_it_says_passes() -> None:
    probe(Engine())


def test_a_start_without_a_prefix_cache_passes() -> None:
    probe(Engine(caches=False), Scale(16, False, 512, 320))
    probe(Engine(caches=False), Scale(1024, True, 512, 320))


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ({"isolates": False}, "'strong' failed: it read 32 cached tokens that another profile had computed"),
        ({"caches": False}, "its second turn read nothing from the prefix cache"),
        ({"reports": False}, "reported no reading"),
        ({"counts_rows": False}, "readings cover 37 positions, not 38"),
        ({"maps_rows": False}, "'strong' failed: its rows ran in slots .0.: the row map is wrong"),
        ({"acts": False}, "'strong' failed: a lift of 1 after layer 2 moved nothing after layer 3"),
        ({"finite": False}, "a projection after layer 2 is not a number"),
        ({"early": True}, "'strong' failed: after layer 2, before any cap, it reads 5, 'off' 1"),
    ],
)
def test_each_way_to_be_half_capped_stops_the_start(flaw: dict[str, bool], said: str) -> None:
    with pytest.raises(CannotServe, match=said):
        probe(Engine(**flaw))
