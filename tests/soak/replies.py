"""What must hold for every answer that was finished: all of its tokens were measured, and told once."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from soak.asks import Ask


class Reply(NamedTuple):
    """What one response said."""

    profile: str | None
    """By its header."""
    said: int
    """How often its bytes name a `mooring` member: a JSON parser would keep one of two equal keys."""
    members: list[list[dict[str, Any]]]
    """Its `mooring` members in the order of the frames, each by choice."""
    tokens: int | None
    """Of all choices together, by its usage; None = it ended without."""
    end: bytes
    """Its last bytes."""
    tokens_by_choice: list[int] | None
    """By the ids that vLLM returned, if it was asked for them."""


def parse(ask: Ask, header: str | None, raw: bytes) -> Reply:
    documents = list(_frames(raw)) if ask.stream else [json.loads(raw)]
    members = [member for document in documents if (member := _own(document, "mooring")) is not None]
    usages = [usage for document in documents if (usage := _own(document, "usage"))]
    usage = usages[-1] if usages else {}
    return Reply(
        profile=header,
        said=raw.count(b'"mooring":'),
        members=[member if isinstance(member, list) else [member] for member in members],
        tokens=usage.get("completion_tokens", usage.get("output_tokens")),
        end=raw[-300:],
        tokens_by_choice=_count_ids(documents, ask.choices) if _counted(ask) else None,
    )


def _frames(raw: bytes) -> Iterator[dict[str, Any]]:
    for line in raw.split(b"\n"):
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            yield json.loads(line.removeprefix(b"data: "))


def _own(document: dict[str, Any], key: str) -> Any:
    return document.get(key, (document.get("response") or {}).get(key))


def _counted(ask: Ask) -> bool:
    return bool(ask.body().get("return_token_ids"))


def _count_ids(documents: Sequence[dict[str, Any]], choices: int) -> list[int]:
    found = [0] * choices
    for document in documents:
        for choice in document.get("choices", ()):
            found[choice["index"]] += len(choice.get("token_ids") or [])
    return found


def complaints(ask: Ask, reply: Reply) -> Iterator[str]:
    """Whatever does not hold."""
    if reply.profile != ask.runs_under:
        yield f"the header says profile {reply.profile!r}"
    if reply.said != len(reply.members):
        yield f"{reply.said} `mooring` members where {len(reply.members)} were parsed"
    finals = [member for member in reply.members if "profile" in member[0]]
    if reply.tokens is None:
        yield f"it ended without usage: {reply.end!r}"
    elif len(finals) != 1 or reply.members[-1] is not finals[0]:
        yield f"{len(finals)} final `mooring` members among {len(reply.members)}"
    elif len(finals[0]) != ask.choices:
        yield f"{len(finals[0])} objects for {ask.choices} choices"
    else:
        yield from _of_choices(ask, reply, finals[0])


def _of_choices(ask: Ask, reply: Reply, final: Sequence[dict[str, Any]]) -> Iterator[str]:
    measured = [told["measured_tokens"] for told in final]
    assert reply.tokens is not None
    if sum(measured) != reply.tokens - ask.choices:
        yield f"{measured} tokens measured of {reply.tokens} in {ask.choices} choices"
    if reply.tokens_by_choice is not None and measured != [count - 1 for count in reply.tokens_by_choice]:
        yield f"{measured} tokens measured, and the choices have {reply.tokens_by_choice}"
    for i, told in enumerate(final):
        if ask.choices > 1 and told["index"] != i:
            yield f"choice {i} says that it is {told['index']}"
        yield from _of_object(ask, told)
        if ask.tokens:
            yield from _of_tokens([member[i]["tokens"] for member in reply.members], told)
    if not ask.tokens and (len(reply.members) > 1 or any("tokens" in told for told in final)):
        yield "tokens were told and not asked for"


def _of_object(ask: Ask, told: dict[str, Any]) -> Iterator[str]:
    if told["complete"] is not True:
        yield f"complete is {told['complete']} with {told['measured_tokens']} tokens"
    if told["profile"] != ask.runs_under:
        yield f"the object says profile {told['profile']!r}"
    if (told["projection"] is None) != (told["measured_tokens"] == 0):
        yield f"projection {told['projection']} of {told['measured_tokens']} tokens"
    if ask.runs_under == "off" and told["lifted_share"]:
        yield f"off lifted {told['lifted_share']}"


def _of_tokens(parts: Sequence[dict[str, Any]], told: dict[str, Any]) -> Iterator[str]:
    """`parts` are what the frames told of one choice."""
    index = [i for part in parts for i in part["index"]]
    if index != list(range(told["measured_tokens"])):
        yield f"tokens told are {index}, and {told['measured_tokens']} were measured"
    for name in ("projection", "lift"):
        for layer in told["layers"]:
            values = [value for part in parts for value in part[name][layer]]
            if len(values) != len(index) or not all(map(math.isfinite, values)):
                yield f"{len(values)} numbers of {name} at layer {layer} for {len(index)} tokens"
            elif told["layers"][layer][name] != pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-4):
                yield f"mean {name} {told['layers'][layer][name]} at layer {layer}, and its tokens' is another"
