"""Looks into a request as vLLM has parsed it, at what it may not have: pydantic takes long to say that it has not."""

from typing import Any


def member(request: Any, name: str) -> Any:
    """A field, or what the client sent besides the fields; None where there is none."""
    found = getattr(request, "__dict__", {}).get(name)
    if found is None and (extra := getattr(request, "__pydantic_extra__", None)):
        found = extra.get(name)
    return found
