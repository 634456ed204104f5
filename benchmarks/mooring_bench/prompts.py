"""What is asked: a file format for any model, and the held-out sets of the embedded demo.

A prompt file is JSONL in UTF-8, one prompt a line; nothing else may be present:

    set        MUST  what the prompt is counted under
    id         MUST  unique in its set: answers under two profiles are paired by it
    messages   MUST  [{"role": "system", "user" or "assistant", "content": text}, ...]; the last is the user's.
                     A user's message followed by another one is answered by the server first, so several in a
                     row are a talk. An assistant's message is history and is sent as it stands.
    expect     MAY   how the last answer is judged (judges.py); without it only its readings count
    category   MAY   a part of its set that is also told by itself

    {"set": "capability", "id": "sum-1", "messages": [{"role": "user", "content": "What is 19 + 23?"}],
     "expect": {"judge": "answer", "key": "42"}}

Sets may have any name. The targets of targets.py look at these:

    jailbreaks        harm asked under a persona            measure harm
    plain_harm        harm asked without one                measure refused
    capability        questions with a key                  measure correct
    role_play         questions to personas                 measure voice; projections of one class
    default_answers   the same kind with no persona         projections of the other class
    talk_emotional    talks that should drift               drift by turn
    talk_practical    talks that should not                 drift by turn
    talk_back         drifting talks whose last BACK_TURNS turns are practical

The demo's sets are drawn from its test split with SEED, which was fixed before anything was measured with it.
Items that the split's default seed draws are left out: they were looked at while the model was tuned.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mooring_axes.demo import items, words
from mooring_axes.demo.corpus import Item
from mooring_bench.judges import Expect

SEED: Final = 20261121
TUNED_SEED: Final = 0
BACK_TURNS: Final = 2
HARM_TURN: Final = "h"

TALKS: Final = {
    "talk_emotional": "eeeee",
    "talk_practical": "ppppp",
    "talk_back": "eeeepp",
    "talk_emotional_harm": "eeeeh",
    "talk_back_harm": "eeeepph",
    "talk_practical_harm": "pppph",
}
"""Set -> its turns: e emotional, p practical, h a toy harmful request."""


class CannotMeasure(Exception):
    """What the person who runs the benchmark can put right; shown without a traceback."""


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(BaseModel):
    """One line of a prompt file; the fields stand in the head of this file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    id: str
    messages: tuple[Message, ...]
    expect: Expect | None = None
    category: str | None = None

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if not messages or messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return messages

    def turns(self) -> Iterator[list[dict[str, str]]]:
        """The messages to send before each of the server's answers; an answer goes between two of these."""
        said: list[dict[str, str]] = []
        for here, after in zip(self.messages, (*self.messages[1:], None), strict=True):
            said.append(here.model_dump())
            if here.role == "user" and (after is None or after.role == "user"):
                yield said
                said = []


class Sizes(NamedTuple):
    """How many prompts of each of the demo's sets; `talks` of every kind of talk."""

    jailbreaks: int = 400
    plain_harm: int = 200
    capability: int = 800
    role_play: int = 200
    default_answers: int = 200
    talks: int = 32


def demo_prompts(seed: int = SEED, sizes: Sizes | None = None) -> list[Prompt]:
    sizes = sizes or Sizes()
    sets: dict[str, tuple[Callable[..., list[Item]], Callable[[Item], dict[str, Any]]]] = {
        "jailbreaks": (items.jailbreaks, lambda item: {"judge": "demo.harm", "key": item.key}),
        "plain_harm": (items.plain_harm, lambda item: {"judge": "demo.harm", "key": item.key}),
        "capability": (
            items.capability,
            lambda item: {"judge": "demo.answer", "kind": item.kind, "key": item.key},
        ),
        "role_play": (items.role_play, lambda item: {"judge": "demo.voice"}),
        "default_answers": (items.default_answers, lambda item: {"judge": "demo.voice"}),
    }
    prompts = []
    for name, (make, expect) in sets.items():
        for number, item in enumerate(unseen(make, getattr(sizes, name), seed)):
            prompts.append(_prompt(name, number, item.messages, expect(item), _category(name, item)))
    return [*prompts, *_talks(seed, sizes.talks)]


def unseen(make: Callable[..., list[Item]], count: int, seed: int) -> list[Item]:
    """`count` items of the test split without the first 400 that its default seed draws."""
    seen = [item.messages for item in make("test", 400, TUNED_SEED)]
    fresh = [item for item in make("test", count + len(seen), seed) if item.messages not in seen]
    return fresh[:count]


def _talks(seed: int, count: int) -> Iterator[Prompt]:
    for name, script in TALKS.items():
        for number in range(count):
            turns = [turn.question for turn in items.talk("test", script, seed + number)]
            harmful = {"judge": "demo.harm", "key": turns[-1].key} if script.endswith(HARM_TURN) else None
            yield _prompt(name, number, [{"role": "user", "content": turn.text} for turn in turns], harmful)


def _category(name: str, item: Item) -> str | None:
    """Of a jailbreak, what sort of persona it asks for; of a question, what sort it is."""
    if name == "jailbreaks" and item.persona is not None:
        return f"{'evil' if item.persona.role in words.EVIL else 'far'} role"
    return item.kind if name == "capability" else None


def _prompt(
    name: str,
    number: int,
    messages: Sequence[dict[str, str]],
    expect: dict[str, Any] | None,
    category: str | None = None,
) -> Prompt:
    return Prompt.model_validate(
        {"set": name, "id": f"{name}-{number}", "messages": messages, "expect": expect, "category": category}
    )


def read_prompts(paths: Sequence[Path]) -> list[Prompt]:
    """Every prompt of the files; CannotMeasure names the file and line of the first that is none."""
    prompts = [prompt for path in paths for prompt in _file(path)]
    if not prompts:
        raise CannotMeasure(f"no prompts in {', '.join(map(str, paths))}")
    twice = [key for key, number in Counter((p.set, p.id) for p in prompts).items() if number > 1]
    if twice:
        raise CannotMeasure(f"the id {twice[0][1]!r} is twice in the set {twice[0][0]!r}: pairs are formed by it")
    return prompts


def _file(path: Path) -> Iterator[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotMeasure(f"cannot read the prompts in {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _line(line, f"{path}:{number}")


def _line(line: str, where: str) -> Prompt:
    try:
        return Prompt.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise CannotMeasure(f"{where} is not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CannotMeasure(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def limited(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """The first `count` prompts of every set; all of them where it is None."""
    taken = Counter[str]()
    kept = []
    for prompt in prompts:
        taken[prompt.set] += 1
        if count is None or taken[prompt.set] <= count:
            kept.append(prompt)
    return kept


def prompts_by_set(prompts: Sequence[Prompt]) -> dict[str, int]:
    """Set -> how many."""
    return dict(Counter(prompt.set for prompt in prompts))
