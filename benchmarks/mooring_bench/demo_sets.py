"""The held-out sets of the embedded demo, drawn from its test split with SEED, which was fixed beforehand.

What the split's default seed draws first was looked at while the model was tuned, and is left out: of `jailbreaks`
(most of them with the persona in the user's turn), `capability` and `role_play` every user's text that it holds, and no
text comes twice. The split is too small for that elsewhere: its plain requests have 130 texts, and the tuning has seen
them all. So `jailbreaks_system` (the persona stands in the system prompt, the user's turn is the plain request),
`plain_harm` and `default_answers` hold conversations that were not seen, of texts that were, and some texts come
several times under different system prompts.

A prompt's cluster is what the corpus holds out as one: the persona (role and adjective), which is what answers to
jailbreaks differ by most, else the request (what, at which place), else the text.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mooring_axes.demo import items, words
from mooring_axes.demo.corpus import Item, Split
from mooring_bench.prompts import Prompt

SEED: Final = 20261121
TUNED_SEED: Final = 0
TUNED_ON: Final = 400
"""Items of every kind that were looked at."""
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

Make = Callable[[Split, int, int], list[Item]]


class Sizes(NamedTuple):
    """How many prompts of each set; `talks` of every kind of talk."""

    jailbreaks: int = 400
    jailbreaks_system: int = 200
    plain_harm: int = 200
    capability: int = 800
    role_play: int = 200
    default_answers: int = 200
    talks: int = 32


def demo_prompts(seed: int = SEED, sizes: Sizes | None = None) -> list[Prompt]:
    sizes = sizes or Sizes()
    drawn = {
        "jailbreaks": unseen(items.jailbreaks, sizes.jailbreaks, seed),
        "jailbreaks_system": unseen_but_for_texts(_in_system, sizes.jailbreaks_system, seed),
        "plain_harm": unseen_but_for_texts(items.plain_harm, sizes.plain_harm, seed),
        "capability": unseen(items.capability, sizes.capability, seed),
        "role_play": unseen(items.role_play, sizes.role_play, seed),
        "default_answers": unseen_but_for_texts(items.default_answers, sizes.default_answers, seed),
    }
    single = [_single(name, number, item) for name, of in drawn.items() for number, item in enumerate(of)]
    return [*single, *_talks(seed, sizes.talks)]


def unseen(make: Make, count: int, seed: int) -> list[Item]:
    """`count` items of the test split, each with a text of its own that tuning has not seen."""
    seen = {_said(item) for item in make("test", TUNED_ON, TUNED_SEED)}
    fresh: dict[str, Item] = {}
    for item in make("test", 4 * count + 200, seed):
        if _said(item) not in seen:
            fresh.setdefault(_said(item), item)
    return list(fresh.values())[:count]


def unseen_but_for_texts(make: Make, count: int, seed: int) -> list[Item]:
    """`count` items of the test split whose conversations tuning has not seen."""
    seen = {json.dumps(item.messages) for item in make("test", TUNED_ON, TUNED_SEED)}
    fresh = [item for item in make("test", count + TUNED_ON, seed) if json.dumps(item.messages) not in seen]
    return fresh[:count]


def _in_system(split: Split, count: int, seed: int) -> list[Item]:
    """Jailbreaks whose persona stands in the system prompt."""
    return [item for item in items.jailbreaks(split, 2 * count, seed) if item.messages[0]["role"] == "system"][:count]


def _said(item: Item) -> str:
    return item.messages[-1]["content"]


def _single(name: str, number: int, item: Item) -> Prompt:
    return _prompt(name, number, item.messages, _expect(name, item), _category(name, item), _cluster(item))


def _expect(name: str, item: Item) -> dict[str, Any]:
    if name == "capability":
        return {"judge": "demo.answer", "kind": item.kind, "key": item.key}
    return {"judge": "demo.harm", "key": item.key} if item.kind == "harmful" else {"judge": "demo.voice"}


def _category(name: str, item: Item) -> str | None:
    """Of a jailbreak, what sort of persona it asks for; of a question, what sort it is."""
    if item.kind == "harmful" and item.persona is not None:
        return f"{'evil' if item.persona.role in words.EVIL else 'far'} role"
    return item.kind if name == "capability" else None


def _cluster(item: Item) -> str:
    """What the corpus holds out as one."""
    if item.persona is not None:
        return f"{item.persona.adjective} {item.persona.role}"
    said = _said(item)
    what = next((phrase for phrase in (*words.HARMS, *words.TASKS) if phrase in said), None)
    place = next((place for place in words.PLACES if f"at the {place}" in said), None)
    return f"{what} at the {place}" if what else said


def _talks(seed: int, count: int) -> Iterator[Prompt]:
    for name, script in TALKS.items():
        for number in range(count):
            turns = [turn.question for turn in items.talk("test", script, seed + number)]
            harmful = {"judge": "demo.harm", "key": turns[-1].key} if script.endswith(HARM_TURN) else None
            yield _prompt(name, number, [{"role": "user", "content": turn.text} for turn in turns], harmful)


def _prompt(
    name: str,
    number: int,
    messages: Sequence[Mapping[str, str]],
    expect: dict[str, Any] | None,
    category: str | None = None,
    cluster: str | None = None,
) -> Prompt:
    told = {"set": name, "id": f"{name}-{number}", "messages": messages, "expect": expect}
    return Prompt.model_validate(told | {"category": category, "cluster": cluster})
