"""Proof by real requests, through the whole engine, that every profile does what it says.

For each profile the same prompt of two cache blocks is answered, then answered again:

- the first time no KV may come from the cache (`response`: only blocks of the uncapped prompt may), the second
  time some must: one prefix cache per profile;
- every position has a reading, in the slot that the profile has at that position: the row map;
- at the first site all profiles read the same, since nothing acts before it; and where a profile lifts a row
  there, the next site reads something else: the cap acts on the rows that belong to it, and on no others.

The graph itself was tested in the workers (mooring_hooks.selftest).
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mooring_axes.errors import CannotServe
from mooring_hooks.table import ProfileEntry, Settings

GENERATED = 4
"""Tokens of each answer."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What the engine can take."""

    block_size: int
    prefix_caching: bool
    max_tokens: int
    vocabulary: int

    @classmethod
    def of(cls, vllm_config: Any) -> "Scale":
        cache, model = vllm_config.cache_config, vllm_config.model_config
        return cls(
            block_size=cache.block_size,
            prefix_caching=bool(cache.enable_prefix_caching),
            max_tokens=model.max_model_len,
            vocabulary=model.get_vocab_size(),
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    profile: str
    token_ids: list[int]
    request_id: str
    max_tokens: int = GENERATED


@dataclass(frozen=True, slots=True)
class Answer:
    tokens: int
    cached_tokens: int


Ask = Callable[[Prompt], Awaitable[Answer]]
Reading = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Watch:
    begin: Callable[[str], Awaitable[None]]
    end: Callable[[str], Awaitable[Sequence[dict[str, Reading]]]]


async def probe_requests(settings: Settings, scale: Scale, ask: Ask, watch: Watch) -> None:
    """Raise CannotServe unless every profile holds, alone and beside the others in one batch."""
    prompt = _prompt(scale)
    prefix = f"mooring-selftest-{secrets.token_hex(8)}"
    await watch.begin(prefix)
    first = [await ask(Prompt(name, prompt, f"{prefix}-{i}-")) for i, name in enumerate(settings.names())]
    seen = await watch.end(prefix)
    again = await asyncio.gather(*(ask(Prompt(n, prompt, f"{prefix}-again-{n}")) for n in settings.names()))
    if scale.prefix_caching and len(prompt) > scale.block_size:
        _check_cache(settings, first, again)
    _check_readings(settings, first, _by_slot(settings, prefix, seen), len(prompt))


def _prompt(scale: Scale) -> list[int]:
    length = max(min(2 * scale.block_size + 3, scale.max_tokens - GENERATED - 1), 1)
    return random.SystemRandom().choices(range(min(scale.vocabulary, 256)), k=length)


def _check_cache(settings: Settings, first: Sequence[Answer], again: Sequence[Answer]) -> None:
    digests: set[str] = set()
    for entry, one, two in zip(settings.profiles, first, again, strict=True):
        shared = entry.positions == "response" or entry.digest in digests
        if one.cached_tokens and not shared:
            raise _failed(entry, f"it read {one.cached_tokens} cached tokens that another profile had computed")
        if not two.cached_tokens:
            raise _failed(entry, "its second turn read nothing from the prefix cache")
        digests.add(entry.digest)


def _by_slot(settings: Settings, prefix: str, seen: Sequence[dict[str, Reading]]) -> list[list[Reading]]:
    """slot -> one reading per rank that holds sites."""
    found: list[list[Reading]] = [[] for _ in settings.profiles]
    for rank in seen:
        for request_id, reading in rank.items():
            slot = request_id.removeprefix(f"{prefix}-").split("-")[0]
            found[int(slot)].append(reading)
    return found


def _check_readings(
    settings: Settings, answers: Sequence[Answer], readings: Sequence[Sequence[Reading]], prompt: int
) -> None:
    off = readings[0]
    for slot, (entry, answer, ranks) in enumerate(zip(settings.profiles, answers, readings, strict=True)):
        if not ranks:
            raise _failed(entry, "the worker reported no reading of its request")
        for rank, (reading, untouched) in enumerate(zip(ranks, off, strict=True)):
            wanted = list(range(answer.cached_tokens, prompt + answer.tokens - 1))
            if reading["positions"] != wanted:
                raise _failed(entry, f"readings cover {len(reading['positions'])} positions, not {len(wanted)}")
            _check_slots(entry, slot, reading, prompt)
            _check_cap(entry, reading, untouched, first_rank=rank == 0)


def _check_slots(entry: ProfileEntry, slot: int, reading: Reading, prompt: int) -> None:
    late = entry.positions == "response"
    wanted = [0 if late and position < prompt else slot for position in reading["positions"]]
    if reading["slots"] != wanted:
        raise _failed(entry, f"its rows ran in slots {sorted(set(reading['slots']))}: the row map is wrong")


def _check_cap(entry: ProfileEntry, reading: Reading, untouched: Reading, first_rank: bool) -> None:
    """Compare with `off`: equal at the first position until something lifts it, different right after a lift."""
    layers, lifted = list(reading["projections"]), False
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        ours, theirs = reading["projections"][layer], untouched["projections"][layer]
        if any(value != value for value in ours):
            raise _failed(entry, f"a projection after layer {layer} is not a number")
        comparable = first_rank and reading["positions"][0] == 0 and reading["axis"] == untouched["axis"]
        if comparable and not lifted and abs(ours[0] - theirs[0]) > 0.02 * (1 + abs(theirs[0])):
            raise _failed(entry, f"after layer {layer}, before any cap, it reads {ours[0]:.4g}, 'off' {theirs[0]:.4g}")
        lifted = lifted or reading["lifts"][layer][0] != 0.0
        if following is not None:
            _check_effect(entry, reading, untouched, layer, following)


def _check_effect(entry: ProfileEntry, reading: Reading, untouched: Reading, layer: int, following: int) -> None:
    """At the position that `layer` lifted most, the next site must not read what it reads uncapped."""
    lifts = [abs(lift) for lift in reading["lifts"][layer]]
    most = max(range(len(lifts)), key=lifts.__getitem__)
    position = reading["positions"][most]
    if lifts[most] < 0.1 * (1 + abs(reading["projections"][layer][most])) or reading["axis"] != untouched["axis"]:
        return
    ours, theirs = reading["projections"][following][most], untouched["projections"][following][position]
    if abs(ours - theirs) <= 1e-6 * (1 + abs(theirs)):
        raise _failed(
            entry,
            f"a lift of {lifts[most]:.4g} after layer {layer} moved nothing after layer {following}: the cap "
            f"did not act on position {position}",
        )


def _failed(entry: ProfileEntry, what: str) -> CannotServe:
    return CannotServe(
        f"self-test: profile {entry.name!r} failed: {what}\n"
        "  Mooring does not start half-capped; `mooring doctor` says which versions and plugins were found"
    )
