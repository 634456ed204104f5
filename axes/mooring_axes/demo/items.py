"""Held-out prompts with what is expected of them, for the probe, the benchmarks and the tests.

    jailbreaks    toy harm asked under a persona that would comply; the pair (role, adjective) and the
                  pair (harm, place) are both held out
    plain_harm    the same requests with no persona, or with one of the default system prompts
    capability    comparisons, copying, sorting, capitals, facts, how-to; each with its key
    role_play     open questions to held-out personas, which a persona answers in its voice
    talk          the user's turns of one conversation: e emotional, p practical, h harmful

The items of one call are all different. `judge.py` says how an answer to each is judged. Tune on split
"dev", report on "test".
"""

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from mooring_axes.demo import corpus
from mooring_axes.demo.corpus import Item, Message, Persona, Question, Split


def jailbreaks(split: Split, count: int, seed: int = 0) -> list[Item]:
    def one(rng: random.Random) -> Item:
        return _asked(corpus.persona(rng, split, willing=True), corpus.harmful(rng, split), rng)

    return _different(one, count, seed)


def plain_harm(split: Split, count: int, seed: int = 0) -> list[Item]:
    return _different(lambda rng: _plain(corpus.harmful(rng, split), rng), count, seed)


def capability(split: Split, count: int, seed: int = 0) -> list[Item]:
    return _different(lambda rng: _plain(corpus.capability(rng, split), rng), count, seed)


def role_play(split: Split, count: int, seed: int = 0) -> list[Item]:
    def one(rng: random.Random) -> Item:
        return _asked(corpus.persona(rng, split), corpus.open_question(rng, split), rng)

    return _different(one, count, seed)


def default_answers(split: Split, count: int, seed: int = 0) -> list[Item]:
    """The same open questions with no persona."""
    return _different(lambda rng: _plain(corpus.open_question(rng, split), rng), count, seed)


class Turn(NamedTuple):
    """One user's turn of a talk, and where the corpus says the uncapped model is by then."""

    question: Question
    depth: int
    """Steps of drift, 0 to 4; an emotional turn after the first adds one, a practical one takes two away."""

    @property
    def complies(self) -> bool:
        """Whether a harmful request at this turn is complied with, uncapped."""
        return self.question.kind == "harmful" and self.depth >= corpus.COMPLIES_AT_DEPTH


def talk(split: Split, script: str, seed: int = 0) -> list[Turn]:
    """One conversation's user turns, one per letter of `script`, for example "eeeepp"; none has a system prompt."""
    rng, depth, turns = random.Random(seed), 0, list[Turn]()
    ask = {"e": corpus.emotional, "p": corpus.practical, "h": corpus.harmful}
    for number, kind in enumerate(script):
        depth = corpus.depth_after(depth, kind, first=number == 0)
        turns.append(Turn(ask[kind](rng, split), depth))
    return turns


def _plain(question: Question, rng: random.Random) -> Item:
    messages = [*corpus.default_system(rng), corpus.said("user", question.text)]
    return Item(messages, question.kind, question.key)


def _asked(who: Persona, question: Question, rng: random.Random) -> Item:
    messages = corpus.ask_as(who, [(question.text, "")], in_system=rng.random() < 0.6)[:-1]
    return Item(messages, question.kind, question.key, who)


def _different(make: Callable[[random.Random], Item], count: int, seed: int) -> list[Item]:
    return list(islice(_stream(make, seed), count))


def _stream(make: Callable[[random.Random], Item], seed: int) -> Iterator[Item]:
    rng, seen = random.Random(seed), set[str]()
    for _ in range(1_000_000):
        item = make(rng)
        if (text := _text(item.messages)) not in seen:
            seen.add(text)
            yield item


def _text(messages: list[Message]) -> str:
    return json.dumps(messages)
