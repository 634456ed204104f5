"""How a request names its profile: in `vllm_xargs`, in a header, or behind the model's name.

    "vllm_xargs": {"mooring_profile": "off"}        any generating endpoint
    X-Mooring-Profile: off
    "model": "demo:off"                             the names that GET /v1/models lists

Asked for twice it must be the same, else the request is refused: nobody can tell which was meant. The profile a
request runs under goes out in the header of its response.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mooring_hooks.engine import PROFILE_KEY
from mooring_hooks.table import Settings

HEADER = "X-Mooring-Profile"


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
