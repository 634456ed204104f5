"""What is asked: a file format for any model.

A prompt file is JSONL in UTF-8, one prompt a line; nothing else may be present:

    set        MUST  what the prompt is counted under
    id         MUST  unique in its set: answers under two profiles are paired by it
    messages   MUST  [{"role": "system", "user" or "assistant", "content": text}, ...]; the last is the user's.
                     A user's message followed by another one is answered by the server first, so several in a
                     row are a talk. An assistant's message is history and is sent as it stands.
    expect     MAY   how the last answer is judged (judges.py); without it only its readings count
    category   MAY   a part of its set that is also told by itself
    cluster    MAY   prompts of a set that share it are much alike, such as one persona's: intervals take them as one
                     draw (paired.py); without it, every prompt is drawn alone

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

Two sets of sets are there: of the embedded demo (demo_sets.py), and general ones for any other model (sources.py).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mooring_bench.judges import Expect

BACK_TURNS: Final = 2


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
    cluster: str | None = None

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


def read_prompts(paths: Sequence[Path]) -> list[Prompt]:
    """Every prompt of the files; CannotMeasure names the file and line of the first that is none."""
    prompts = [prompt for path in paths for prompt in _file(path)]
    if not prompts:
        raise CannotMeasure(f"no prompts in {', '.join(map(str, paths))}")
    return each_once(prompts)


def each_once(prompts: list[Prompt]) -> list[Prompt]:
    """CannotMeasure where two prompts have one name."""
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


def made_of(prompts: Sequence[Prompt]) -> dict[str, dict[str, int]]:
    """Set -> how many prompts, different texts of the user, and clusters."""
    texts, clusters = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for prompt in prompts:
        texts[prompt.set] |= {message.content for message in prompt.messages if message.role == "user"}
        clusters[prompt.set].add(prompt.cluster or prompt.id)
    return {
        name: {"prompts": count, "texts": len(texts[name]), "clusters": len(clusters[name])}
        for name, count in prompts_by_set(prompts).items()
    }
