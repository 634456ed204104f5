"""Ask a served endpoint: who serves there, and every prompt under every arm.

An arm is a profile asked for with `"vllm_xargs": {"mooring_profile": NAME}`. A server without Mooring has one
arm, STOCK, which asks for none. Every answer of Mooring names the profile it ran under in a header; an answer
under another one than was asked for ends the measurement.

Prompts are asked in one shuffled order, each under all seeds and all arms in a row, so that arms share batches and what
an interrupted run has done is still paired. Nothing is asked twice: a request that fails is not tried again.
"""

import asyncio
import os
import random
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, NamedTuple

import httpx

from mooring_bench.identity import AXIS_PATH, Identity, identity
from mooring_bench.prompts import CannotMeasure, Prompt

STOCK: Final = "stock"
DEFAULT: Final = "default"
"""An arm of this name is the profile of requests that name none, unless a profile is called so."""
URL_KEY: Final = "OPENAI_API_KEY"
JUDGE_KEY: Final = "MOORING_JUDGE_API_KEY"
"""Environment variables with the API keys of the server and of a judge: neither gets the other's."""
PROFILE_HEADER: Final = "X-Mooring-Profile"
PROFILE_KEY: Final = "mooring_profile"
TIMEOUT: Final = httpx.Timeout(300.0, connect=10.0)
"""Seconds; one answer may wait for every other one in the batch."""
TOLD: Final = 10
"""How often a run says how far it is."""

Messages = Sequence[Mapping[str, str]]


class ServerGone(Exception):
    """The server stopped answering, or answers what it was not asked: what is measured so far is all there is."""


class Refused(Exception):
    """The server answered one request with a client error."""


class Arm(NamedTuple):
    name: str
    profile: str | None
    """What requests ask for; None = nothing."""


class Reply(NamedTuple):
    text: str
    ended: bool
    """The model stopped by itself, and was not cut off."""
    reading: Mapping[str, Any] | None
    """The response's `mooring` object; None where the server sends none."""


class Record(NamedTuple):
    """One prompt under one arm."""

    prompt: Prompt
    arm: str
    replies: tuple[Reply, ...]
    """One per turn; fewer where `failed`."""
    failed: str | None
    """What the server said of the turn that it refused."""
    verdict: bool | None = None
    """What a model that judges said of the last answer (verdicts.py); None where it said nothing clear."""
    seed: int = 0
    """Under which it was answered."""


@dataclass(frozen=True, slots=True)
class Served:
    """Who answers at a URL."""

    model: str
    identity: Identity
    version: str | None
    """Of vLLM; None where the server does not tell."""
    arms: tuple[Arm, ...]
    default: str | None
    """The arm of requests that name no profile; None without Mooring."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How answers are generated, and how many at a time."""

    max_tokens: int
    concurrency: int
    seed: int
    """Of the order in which prompts are asked."""
    seeds: tuple[int, ...]
    """Of the answers: every prompt is asked once under each."""
    temperature: float


@dataclass(slots=True)
class Run:
    """What was asked; filled as answers come, and so worth something at any time."""

    total: int
    """Records that there will be at the end."""
    records: list[Record] = field(default_factory=list)
    stopped: str | None = None
    """Why it ended before its end; None = it did not."""
    added: Callable[[], None] = lambda: None
    """Called after every record."""

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.added()
        if len(self.records) % max(self.total // TOLD, 1) == 0:
            print(f"{len(self.records)} of {self.total} prompts answered", file=sys.stderr, flush=True)


class Endpoint:
    """The OpenAI-compatible routes of one server."""

    def __init__(
        self, url: str, model: str | None = None, max_tokens: int = 1, key: str = URL_KEY, temperature: float = 0.0
    ) -> None:
        self._base = base_of(url)
        self._model = model
        self._sampling = {"temperature": temperature, "max_tokens": max_tokens}
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT,
            headers=authorization(key),
            verify=_tls(),
            # Servers close a connection that rests for some seconds, and one may close just as it is used again.
            limits=httpx.Limits(keepalive_expiry=1.0),
        )

    async def __aenter__(self) -> "Endpoint":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(self._base + path)

    async def chat(self, messages: Messages, profile: str | None, seed: int = 0) -> httpx.Response:
        body: dict[str, Any] = {"model": self._model, "messages": list(messages), "seed": seed, **self._sampling}
        if profile is not None:
            body["vllm_xargs"] = {PROFILE_KEY: profile}
        return await self._client.post(f"{self._base}/v1/chat/completions", json=body)

    async def reply(self, messages: Messages, arm: Arm, seed: int) -> Reply:
        try:
            response = await self.chat(messages, arm.profile, seed)
        except httpx.HTTPError as error:
            raise ServerGone(f"the server stopped answering: {_words(error)}") from None
        if response.status_code >= 500:
            raise ServerGone(f"the server failed with {response.status_code}: {complaint(response)}")
        if response.status_code != 200:
            raise Refused(f"{response.status_code}: {complaint(response)}")
        if (ran := response.headers.get(PROFILE_HEADER)) != arm.profile:
            raise ServerGone(f"an answer asked for under profile {arm.profile!r} ran under {ran!r}")
        return _reply(response)


def authorization(variable: str) -> dict[str, str]:
    """The header that holds the key of an environment variable, if it is set."""
    key = os.environ.get(variable)
    return {"Authorization": f"Bearer {key}"} if key else {}


@cache
def _tls() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than most answers."""
    return httpx.create_ssl_context()


def base_of(url: str) -> str:
    """http://HOST:PORT of any form in which people write it."""
    if not url.startswith(("http://", "https://")):
        raise CannotMeasure(f"{url!r} is not a URL: write http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def _reply(response: httpx.Response) -> Reply:
    try:
        body = response.json()
        choice = body["choices"][0]
        return Reply(choice["message"]["content"] or "", choice["finish_reason"] == "stop", body.get("mooring"))
    except (ValueError, KeyError, IndexError, TypeError):
        raise ServerGone(f"the server's answer is no chat completion: {response.text[:200]!r}") from None


def complaint(response: httpx.Response) -> str:
    """What the server says is wrong, in OpenAI's error shape or as it stands."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


async def look(url: str, model: str | None, wanted: Sequence[str] | None) -> Served:
    """Who serves, and which arms there are. Every profile is asked for once, before any prompt."""
    try:
        async with Endpoint(url) as endpoint:
            listed = await _listed_models(endpoint)
            version, axis = await endpoint.get("/version"), await endpoint.get(AXIS_PATH)
        model = model or next(iter(listed))
        async with Endpoint(url, model) as endpoint:
            default = await _try(endpoint, None)
            names = _arm_names(wanted, default, model, list(listed))
            for name in names or ():
                await _try(endpoint, name)
    except httpx.HTTPError as error:
        raise CannotMeasure(f"no server answers at {url}: {_words(error)}") from None
    arms = (Arm(STOCK, None),) if names is None else tuple(Arm(name, name) for name in names)
    who = identity(listed.get(model, {}), _object(axis))
    return Served(model, who, _object(version).get("version"), arms, default)


async def _listed_models(endpoint: Endpoint) -> dict[str, Mapping[str, Any]]:
    """Name -> what is told of it."""
    response = await endpoint.get("/v1/models")
    try:
        listed = {str(entry["id"]): entry for entry in _object(response).get("data", ())}
    except (KeyError, TypeError):
        listed = {}
    if not listed:
        raise CannotMeasure(f"GET /v1/models lists no model there ({response.status_code}: {complaint(response)})")
    return listed


async def _try(endpoint: Endpoint, profile: str | None) -> str | None:
    """One token under a profile; which one it ran under, None without Mooring."""
    response = await endpoint.chat([{"role": "user", "content": "hello"}], profile)
    if response.status_code != 200:
        asked = f"profile {profile!r} cannot be measured" if profile else "the server does not answer"
        raise CannotMeasure(f"{asked}: {response.status_code}: {complaint(response)}")
    ran: str | None = response.headers.get(PROFILE_HEADER)
    return ran


def _arm_names(
    wanted: Sequence[str] | None, default: str | None, model: str, listed: Sequence[str]
) -> Sequence[str] | None:
    """The profiles to measure; None = the server has none."""
    if default is None and wanted and list(wanted) != [STOCK]:
        raise CannotMeasure(
            f"arms {', '.join(wanted)} were asked for, but this server has no Mooring: "
            f"its answers carry no {PROFILE_HEADER}\n  leave out --arms to measure it as the arm {STOCK!r}"
        )
    if default is None:
        return None
    profiles = [name.removeprefix(f"{model}:") for name in listed if name.startswith(f"{model}:")]
    if wanted and DEFAULT not in profiles:
        wanted = list(dict.fromkeys(default if name == DEFAULT else name for name in wanted))
    return wanted or profiles or [default]


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that was answered; an empty one where there is none."""
    try:
        found = response.json() if response.status_code == 200 else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


async def ask_all(url: str, served: Served, prompts: Sequence[Prompt], limits: Limits, run: Run) -> None:
    """Fill `run` with a record for every prompt under every arm."""

    def fresh() -> Endpoint:
        return Endpoint(url, served.model, limits.max_tokens, temperature=limits.temperature)

    jobs = _in_order(prompts, served.arms, limits)
    # A client for every worker: a pool that is shared looks at all of its connections for every request.
    endpoints = [fresh() for _ in range(limits.concurrency)]
    try:
        async with asyncio.TaskGroup() as workers:
            for endpoint in endpoints:
                workers.create_task(_work(endpoint, jobs, run))
    except* ServerGone as gone:
        run.stopped = str(gone.exceptions[0])


def _in_order(prompts: Sequence[Prompt], arms: Sequence[Arm], limits: Limits) -> Iterator[tuple[Prompt, Arm, int]]:
    shuffled = random.Random(limits.seed).sample(prompts, len(prompts))
    return ((prompt, arm, seed) for prompt in shuffled for seed in limits.seeds for arm in arms)


async def _work(endpoint: Endpoint, jobs: Iterator[tuple[Prompt, Arm, int]], run: Run) -> None:
    """Take from `jobs`, which all workers share, until none is left."""
    async with endpoint:
        for prompt, arm, seed in jobs:
            run.add(await converse(endpoint, prompt, arm, seed))


async def converse(endpoint: Endpoint, prompt: Prompt, arm: Arm, seed: int) -> Record:
    """Every turn of a prompt; the model hears its own answers again."""
    said: list[Mapping[str, str]] = []
    replies: list[Reply] = []
    for turn in prompt.turns():
        said += turn
        try:
            replies.append(await endpoint.reply(said, arm, seed))
        except Refused as refused:
            return Record(prompt, arm.name, tuple(replies), str(refused), seed=seed)
        said.append({"role": "assistant", "content": replies[-1].text})
    return Record(prompt, arm.name, tuple(replies), None, seed=seed)
