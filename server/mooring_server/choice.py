"""How a request names its profile: in `vllm_xargs`, in a header, or behind the model's name.

    "vllm_xargs": {"mooring_profile": "off"}        any generating endpoint
    X-Mooring-Profile: off
    "model": "demo:off"                             the names that GET /v1/models lists

Asked for twice it must be the same, else the request is refused: nobody can tell which was meant. The profile a
request runs under goes out in the header of its response.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mooring_hooks.engine import PROFILE_KEY
from mooring_hooks.table import Settings

HEADER = "X-Mooring-Profile"


@dataclass(slots=True)
class Choice:
    """Of one HTTP request."""

    header: str | None
    """What the client's header says."""
    profile: str | None = None
    """What the request runs under, once that is known."""


CURRENT: ContextVar[Choice | None] = ContextVar("mooring_choice", default=None)


class ProfileMiddleware:
    """Carries the header in, and the profile out. Nothing of the body is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        choice = Choice(Headers(scope=scope).get(HEADER))

        async def tap(message: Message) -> None:
            # Sent before the first byte of an answer, and after its parameters were read.
            if message["type"] == "http.response.start" and choice.profile is not None:
                MutableHeaders(scope=message)[HEADER] = choice.profile
            await send(message)

        token = CURRENT.set(choice)
        try:
            await self.app(scope, receive, tap)
        finally:
            CURRENT.reset(token)


def aliases(settings: Settings, names: Sequence[str]) -> list[str]:
    """The names under which a model's selectable profiles are served."""
    return [f"{name}:{profile}" for name in names for profile in settings.selectable()]


def profile_in_name(settings: Settings, served: Sequence[str], model: str | None) -> str | None:
    """The profile behind a model's name, if that name is an alias of a served one."""
    name, _, profile = (model or "").rpartition(":")
    return profile if name in served and model in served and profile in settings.selectable() else None


def asked_for(xargs: Mapping[str, Any], header: str | None, named: str | None) -> dict[str, Any]:
    """Where a profile was asked for -> its name, for those places that ask for one."""
    places = {f"vllm_xargs.{PROFILE_KEY}": xargs.get(PROFILE_KEY), f"the header {HEADER}": header, "the model": named}
    return {place: name for place, name in places.items() if name is not None}
