"""What a load is sent to: profiles of one server, and perhaps others, each an arm of its own.

A profile is asked for in the header X-Mooring-Profile, or in a mixed load by the model's name (NAME:PROFILE). Every
arm is asked once before anything is measured, and has to answer under its profile.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from mooring_bench.asking import DEFAULT, PROFILE_HEADER, STOCK, URL_KEY, authorization, base_of, complaint
from mooring_bench.identity import AXIS_PATH, Identity, identity
from mooring_bench.prompts import CannotMeasure

PATIENCE: Final = httpx.Timeout(60.0, connect=10.0)
OFF: Final = "off"
HITS: Final = "vllm:prefix_cache_hits_total"


class Arm(NamedTuple):
    """Where the requests of one arm go."""

    name: str
    base: str
    """http://HOST:PORT"""
    model: str
    profile: str | None
    """What its answers run under; None without Mooring."""
    asks: bool
    """Whether its requests name the profile."""
    tokenizer: str | None
    """Folder or hub name of the model, as the server tells it."""
    key: str
    """Environment variable with its server's API key."""

    @property
    def headers(self) -> dict[str, str]:
        """That name the profile."""
        return {PROFILE_HEADER: self.profile} if self.asks and self.profile else {}

    @property
    def all_headers(self) -> dict[str, str]:
        """Those, and the server's key if there is one."""
        return authorization(self.key) | self.headers

    @property
    def alias(self) -> str:
        """The model's name under which requests of this arm find their profile."""
        return f"{self.model}:{self.profile}" if self.asks else self.model


def find(
    url: str, names: Sequence[str] | None, others: Sequence[tuple[str, str]], model: str | None
) -> list[Arm]:
    """All arms, each asked once; `others` are (name, URL). CannotMeasure where one does not answer as it should."""
    first = _at(url, model, URL_KEY)
    if first.profile is None:
        if names and list(names) != [STOCK]:
            raise CannotMeasure(
                f"arms {', '.join(names)} were asked for, but {url} has no Mooring: it is one arm, {STOCK!r}"
            )
        arms = [first._replace(name=STOCK)]
    else:
        arms = [_profile_arm(first, name) for name in names or (OFF, DEFAULT)]
    for name, where in others:
        if name in (arm.name for arm in arms):
            raise CannotMeasure(f"there is an arm {name!r} already: give the server at {where} another name")
        arms.append(_other(name, where))
    return arms


def _other(name: str, url: str) -> Arm:
    """A further server, under the profile of requests that name none."""
    arm = _at(url, None, key_of(name))._replace(name=name)
    if name == STOCK and arm.profile is not None:
        raise CannotMeasure(f"{url} has Mooring: the arm {STOCK} is vLLM without it")
    return arm


def key_of(name: str) -> str:
    """Environment variable with the API key of a further server: no server gets another's."""
    return f"MOORING_{re.sub('[^A-Z0-9]', '_', name.upper())}_API_KEY"


def _profile_arm(first: Arm, name: str) -> Arm:
    """`default` is the profile of requests that name none, unless a profile is called so."""
    if name == STOCK:
        raise CannotMeasure(f"the arm {STOCK!r} is a server of its own: name it with --stock URL")
    if name == DEFAULT and first.profile != DEFAULT:
        return first._replace(name=name)
    arm = first._replace(name=name, profile=name, asks=True)
    ran = _ask(arm)
    if ran != name:
        raise CannotMeasure(f"an answer asked for under profile {name!r} ran under {ran!r}")
    return arm


def _at(url: str, model: str | None, key: str) -> Arm:
    base = base_of(url)
    try:
        listed = httpx.get(f"{base}/v1/models", headers=authorization(key), timeout=PATIENCE)
    except httpx.HTTPError as error:
        raise CannotMeasure(f"no server answers at {url}: {str(error) or type(error).__name__}") from None
    try:
        entries: list[dict[str, Any]] = listed.json()["data"]
        entry = next(e for e in entries if model is None or e["id"] == model)
    except (ValueError, KeyError, TypeError):
        raise CannotMeasure(f"GET /v1/models at {url}: {listed.status_code}: {complaint(listed)}") from None
    except StopIteration:
        names = ", ".join(str(e.get("id")) for e in entries)
        raise CannotMeasure(f"{url} serves no model {model!r}; it serves {names}") from None
    arm = Arm(DEFAULT, base, str(entry["id"]), None, False, entry.get("root"), key)
    return arm._replace(profile=_ask(arm))


def _ask(arm: Arm) -> str | None:
    """One token; the profile that it ran under."""
    body = {"model": arm.model, "prompt": "hello", "max_tokens": 1}
    try:
        reply = httpx.post(f"{arm.base}/v1/completions", json=body, headers=arm.all_headers, timeout=PATIENCE)
    except httpx.HTTPError as error:
        raise CannotMeasure(f"{arm.base} does not answer: {str(error) or type(error).__name__}") from None
    if reply.status_code != 200:
        what = f"arm {arm.name!r} cannot be measured" if arm.asks else f"{arm.base} does not answer"
        raise CannotMeasure(f"{what}: {reply.status_code}: {complaint(reply)}")
    ran: str | None = reply.headers.get(PROFILE_HEADER)
    return ran


def tokenizer_of(arm: Arm, given: str | None) -> str:
    """What prompts are made with: what was given, or the model's folder where the server is on this machine."""
    if given is not None:
        return given
    if arm.tokenizer and Path(arm.tokenizer).is_dir():
        return arm.tokenizer
    raise CannotMeasure("name the model's tokenizer, which random prompts are made with: --tokenizer FOLDER|HUB-NAME")


def identity_of(arm: Arm) -> Identity:
    """Of the model that it is sent to."""
    axis: dict[str, Any] = {}
    if arm.profile is not None:
        try:
            told = httpx.get(arm.base + AXIS_PATH, headers=authorization(arm.key), timeout=PATIENCE)
            axis = told.json() if told.status_code == 200 else {}
        except (httpx.HTTPError, ValueError) as error:
            raise CannotMeasure(f"{arm.base} does not tell its axis: {str(error) or type(error).__name__}") from None
    return identity({"root": arm.tokenizer}, axis)


def cached_tokens(arm: Arm) -> float | None:
    """Prompt tokens that the server has found in its prefix cache so far; None where it does not tell."""
    try:
        text = httpx.get(f"{arm.base}/metrics", headers=authorization(arm.key), timeout=PATIENCE).text
    except httpx.HTTPError:
        return None
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(HITS)]
    return sum(values) if values else None
