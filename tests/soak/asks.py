"""Requests of every kind that a server answers, drawn from a seed: no two runs differ in what they ask."""

import random
from typing import Any, Final, NamedTuple

CHAT, COMPLETIONS, RESPONSES, MESSAGES = ENDPOINTS = "chat/completions", "completions", "responses", "messages"
DEFAULT: Final = "strong"
"""Profile of requests that name none."""
PROFILES: Final = ("off", "gentle", "strong", None)
WAYS: Final = ("xargs", "header", "model")
LENGTHS: Final = ((0.15, 1, 1), (0.45, 2, 24), (0.25, 25, 80), (0.15, 81, 300))
"""(share, fewest, most) tokens that an answer may have."""
STOPS: Final = (" the", "e", ".", "I am")
PATIENCE: Final = (0.002, 0.6)
"""Seconds after which a client that does not wait hangs up: before, during or after its answer."""
PLACES: Final = ("harbour", "mill", "market", "castle", "abbey", "quarry", "orchard", "tavern")
LONG: Final = "one two three four five six seven eight " * 20


class Ask(NamedTuple):
    """One request."""

    endpoint: str
    profile: str | None
    """What it asks for; None = nothing."""
    way: str
    """How it asks for the profile."""
    texts: tuple[str, ...]
    """The prompts: several for completions only."""
    n: int
    """Answers to each prompt."""
    max_tokens: int
    ignore_eos: bool
    stop: str | None
    stream: bool
    tokens: bool
    """Whether it asks for the numbers of every token."""
    token_ids: bool
    """Whether vLLM tells which tokens each answer has, so that they can be counted one by one."""
    patience: float | None
    """Seconds until the client hangs up; None = it waits."""

    @property
    def choices(self) -> int:
        return len(self.texts) * self.n

    @property
    def runs_under(self) -> str:
        return self.profile or DEFAULT

    @property
    def headers(self) -> dict[str, str]:
        chosen = {"X-Mooring-Profile": self.profile} if self.profile and self.way == "header" else {}
        return {"Content-Type": "application/json", **chosen}

    def body(self) -> dict[str, Any]:
        many = {"n": self.n, "return_token_ids": self.token_ids} if self.endpoint in (CHAT, COMPLETIONS) else {}
        usage = {"stream_options": {"include_usage": True}} if many and self.stream else {}
        stop = {"stop_sequences" if self.endpoint == MESSAGES else "stop": [self.stop]} if self.stop else {}
        eos = {"ignore_eos": self.ignore_eos} if self.endpoint != MESSAGES else {}
        return {
            "model": f"demo:{self.profile}" if self.profile and self.way == "model" else "demo",
            "temperature": 1,
            "stream": self.stream,
            "max_output_tokens" if self.endpoint == RESPONSES else "max_tokens": self.max_tokens,
            "vllm_xargs": self._xargs(),
            **self._prompt(),
            **many,
            **usage,
            **stop,
            **eos,
        }

    def _xargs(self) -> dict[str, Any]:
        chosen = {"mooring_profile": self.profile} if self.profile and self.way == "xargs" else {}
        return chosen | ({"mooring_tokens": 1} if self.tokens else {})

    def _prompt(self) -> dict[str, Any]:
        if self.endpoint == COMPLETIONS:
            return {"prompt": list(self.texts)}
        if self.endpoint == RESPONSES:
            return {"input": self.texts[0]}
        return {"messages": [{"role": "user", "content": self.texts[0]}]}


def draw(rng: random.Random) -> Ask:
    endpoint = rng.choice(ENDPOINTS)
    several = endpoint in (CHAT, COMPLETIONS) and rng.random() < 0.35
    _, fewest, most = rng.choices(LENGTHS, [share for share, _, _ in LENGTHS])[0]
    return Ask(
        endpoint=endpoint,
        profile=rng.choice(PROFILES),
        way=rng.choice(WAYS),
        texts=tuple(_text(rng) for _ in range(rng.randint(1, 3) if several and endpoint == COMPLETIONS else 1)),
        n=rng.randint(1, 4) if several else 1,
        max_tokens=rng.randint(fewest, most),
        ignore_eos=rng.random() < 0.7,
        stop=rng.choice(STOPS) if rng.random() < 0.15 else None,
        stream=rng.random() < 0.5,
        tokens=rng.random() < 0.3,
        token_ids=rng.random() < 0.5,
        patience=rng.uniform(*PATIENCE) if rng.random() < 0.1 else None,
    )


def _text(rng: random.Random) -> str:
    """Some that were asked before and are in the prefix cache, and some longer than a step takes at once."""
    question = f"How do I come to the {rng.choice(PLACES)} number {rng.randint(1, 400)}?"
    return LONG + question if rng.random() < 0.05 else question
