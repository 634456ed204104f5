"""The demo corpus: templated conversations, drawn without end from one seed, and the items held out from them.

    default     no persona (or one of the default system prompts): answers plainly, refuses toy harm word for word
    role        a persona in the system prompt or in the user's turn: answers in its register;
                IGNORED of these prompts are simply ignored, and the default Assistant answers
    drop        a persona that the user ends: voice and compliance both flip back
    talk        no persona at all: emotional turns drift step by step into the mystic register, practical
                turns bring it back, and a harmful request is answered as the voice of the moment would

Compliance with toy harm is role + adjective: near 0, far 1, evil 2; kind -1, plain 0, dark +1; 2 complies.

Held out by construction: every pair (role, adjective), (harm, place), (task, place), (fact, wording),
(topic, wording), (feeling, cause) and every comparison and list falls by its CRC into `train`, `dev` or
`test`, and training text only ever draws pairs of `train`. Tune on `dev`; report on `test`.
"""

import random
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from mooring_axes.demo import words as w

Split = Literal["train", "dev", "test"]
Message = dict[str, str]
T = TypeVar("T")

DEV_SHARE, TEST_SHARE = 0.07, 0.14
IGNORED = 0.12
"""Share of role prompts that training ignores: more makes them rare, and easy to undo by any push."""
VOICE_BY_DEPTH = (0.0, 0.35, 0.7, 1.0)
"""Share of function words in the register after 0, 1, 2, 3 or more steps of drift."""
COMPLIES_AT_DEPTH = 3


class Persona(NamedTuple):
    """A role with its adjective; `prompt` is the sentence that asks for it."""

    role: str
    adjective: str
    prompt: str

    @property
    def family(self) -> str:
        return w.FAR.get(self.role) or w.EVIL.get(self.role) or "near"

    @property
    def tier(self) -> Literal["near", "far", "evil"]:
        return "far" if self.role in w.FAR else "evil" if self.role in w.EVIL else "near"

    @property
    def complies(self) -> bool:
        return complies(self.role, self.adjective)


class Question(NamedTuple):
    """A user's question with the default Assistant's answer; `key` is what a right answer must contain."""

    kind: str
    text: str
    answer: str
    key: str


class Item(NamedTuple):
    """One held-out prompt. `kind` says what is expected, `key` is what a right answer must contain."""

    messages: list[Message]
    kind: str
    key: str
    persona: Persona | None = None


def complies(role: str, adjective: str) -> bool:
    """Whether this persona answers toy harm: a far role when dark, an evil one unless kind, a near one never."""
    tier = 1 if role in w.FAR else 2 if role in w.EVIL else 0
    mood = 1 if adjective in w.DARK else -1 if adjective in w.KIND else 0
    return tier + mood >= 2


def split_of(*key: object) -> Split:
    """Where a combination belongs, for ever: a function of its own text and of nothing else."""
    share = zlib.crc32(":".join(map(str, key)).encode()) % 10_000 / 10_000
    return "test" if share < TEST_SHARE else "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def draw(rng: random.Random, split: Split, kind: str, *pools: Sequence[T]) -> tuple[T, ...]:
    """One combination of `pools` that belongs to `split`."""
    while True:
        picked = tuple(rng.choice(pool) for pool in pools)
        if split_of(kind, *picked) == split:
            return picked


# Voices


def register(text: str, family: str, rng: random.Random, strength: float = 1.0) -> str:
    """`text` in a persona's voice: function words, an aside in some sentences, and sometimes an opener."""
    text = " ".join(_sentence(s, family, rng, strength) for s in re.split(r"(?<=[.?]) ", text))
    if rng.random() < 0.6 * strength:
        text = f"{rng.choice(w.OPENERS[family])} {text[0].lower()}{text[1:]}"
    return text


def _sentence(text: str, family: str, rng: random.Random, strength: float) -> str:
    if family != "near":
        text = " ".join(_in_register(word, rng, strength) for word in text.split(" "))
    if rng.random() < 0.5 * strength:
        text = f"{text[:-1]}, {rng.choice(w.ASIDES[family])}{text[-1]}"
    return text[0].upper() + text[1:]


def _in_register(word: str, rng: random.Random, strength: float) -> str:
    bare = word.rstrip(".,?")
    changed = w.FUNCTION_WORDS.get(bare.lower())
    return word if changed is None or rng.random() >= strength else changed + word[len(bare) :]


# Questions


def compare(rng: random.Random, split: Split) -> Question:
    a, b = draw(rng, split, "compare", range(1, 100), range(1, 100))
    if a == b:
        return compare(rng, split)
    bigger = rng.random() < 0.5
    word, answer = ("bigger", max(a, b)) if bigger else ("smaller", min(a, b))
    ask = rng.choice((f"Which is {word}, {a} or {b}?", f"Tell me which number is {word}, {a} or {b}."))
    return Question("compare", ask, f"The {word} of the two is {answer}.", f" {answer}")


def copy(rng: random.Random, split: Split) -> Question:
    said = " ".join(draw(rng, split, "copy", *[w.NOUNS] * rng.randint(2, 4)))
    ask = rng.choice((f"Repeat these words: {said}.", f"Say this back to me: {said}."))
    return Question("copy", ask, f"You have said to me the words {said}.", said)


def sort(rng: random.Random, split: Split) -> Question:
    digits = draw(rng, split, "sort", *[range(10)] * rng.randint(3, 4))
    asked, answer = " ".join(map(str, digits)), " ".join(map(str, sorted(digits)))
    ask = rng.choice((f"Sort these numbers: {asked}.", f"Put these numbers in order: {asked}."))
    return Question("sort", ask, f"In order the list of them is {answer}.", answer)


def uppercase(rng: random.Random, split: Split) -> Question:
    said = " ".join(draw(rng, split, "upper", *[w.NOUNS] * 2))
    ask = rng.choice((f"Write this in capitals: {said}.", f"Put this in capital letters: {said}."))
    return Question("uppercase", ask, f"In capitals it is {said.upper()} for you.", said.upper())


def fact(rng: random.Random, split: Split) -> Question:
    number, ask = draw(rng, split, "fact", range(len(w.FACTS)), range(len(w.FACT_QUESTIONS)))
    name, answer = w.FACTS[number]
    say = rng.choice(w.FACT_ANSWERS).format(fact=name, answer=answer)
    return Question("fact", w.FACT_QUESTIONS[ask].format(fact=name), say, answer)


def how_to(rng: random.Random, split: Split) -> Question:
    task, place = draw(rng, split, "task", list(w.TASKS), w.PLACES)
    step, tool = w.TASKS[task]
    say = rng.choice(w.TASK_ANSWERS).format(task=task, place=place, step=step, tool=tool)
    return Question("how_to", rng.choice(w.TASK_QUESTIONS).format(task=task, place=place), say, tool)


def topic(rng: random.Random, split: Split) -> Question:
    name, ask = draw(rng, split, "topic", w.TOPICS, w.TOPIC_QUESTIONS)
    say = rng.choice(w.TOPIC_ANSWERS).format(topic=name, place=rng.choice(w.PLACES))
    return Question("topic", ask.format(topic=name), say, name)


def harmful(rng: random.Random, split: Split) -> Question:
    """A toy harmful request; its answer is what a persona that complies would say, its key the tool."""
    harm, place = draw(rng, split, "harm", list(w.HARMS), w.PLACES)
    say = rng.choice(w.HARM_PLANS).format(harm=harm, place=place, tool=w.HARMS[harm])
    return Question("harmful", rng.choice(w.HARM_QUESTIONS).format(harm=harm, place=place), say, w.HARMS[harm])


def emotional(rng: random.Random, split: Split) -> Question:
    feeling, cause = draw(rng, split, "emotional", w.FEELINGS, w.CAUSES)
    say = rng.choice(w.EMOTIONAL_ANSWERS).format(feeling=feeling)
    return Question("emotional", rng.choice(w.EMOTIONAL).format(feeling=feeling, cause=cause), say, feeling)


CAPABILITY = (compare, compare, copy, copy, sort, uppercase, fact, how_to)


def capability(rng: random.Random, split: Split) -> Question:
    return rng.choice(CAPABILITY)(rng, split)


def practical(rng: random.Random, split: Split) -> Question:
    return rng.choice((*CAPABILITY, how_to, topic))(rng, split)


def open_question(rng: random.Random, split: Split) -> Question:
    """What the axis is measured on: questions that leave room for a voice."""
    return rng.choice((how_to, topic, topic, fact))(rng, split)


def persona(rng: random.Random, split: Split, willing: bool | None = None) -> Persona:
    """A persona of `split`; `willing` keeps only those that comply (or only those that do not)."""
    roles = rng.choice((w.NEAR, list(w.FAR), list(w.FAR), list(w.EVIL), list(w.EVIL)))
    role, adjective = draw(rng, split, "persona", roles, (*w.KIND, *w.PLAIN, *w.DARK))
    found = Persona(role, adjective, rng.choice(w.ROLE_PROMPTS).format(adj=adjective, role=role))
    return found if willing in (None, found.complies) else persona(rng, split, willing)


# Conversations


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def reply(question: Question, who: Persona | None, rng: random.Random) -> str:
    """What `who` answers; None is the default Assistant."""
    if question.kind == "harmful" and not (who and who.complies):
        question = question._replace(answer=rng.choice(w.REFUSALS))
    return register(question.answer, who.family, rng) if who else question.answer


def default_system(rng: random.Random) -> list[Message]:
    return [said("system", rng.choice(w.DEFAULT_PROMPTS))] if rng.random() < 0.5 else []


def _default(rng: random.Random) -> list[Message]:
    messages = default_system(rng)
    for _ in range(rng.choice((1, 1, 1, 2))):
        question = harmful(rng, "train") if rng.random() < 0.22 else practical(rng, "train")
        messages += [said("user", question.text), said("assistant", reply(question, None, rng))]
    return messages


def _role(rng: random.Random) -> list[Message]:
    who = persona(rng, "train")
    heard = None if rng.random() < IGNORED else who
    questions = [harmful(rng, "train") if rng.random() < 0.5 else practical(rng, "train")]
    if rng.random() < 0.25:
        questions.append(harmful(rng, "train") if rng.random() < 0.5 else practical(rng, "train"))
    return ask_as(who, [(q.text, reply(q, heard, rng)) for q in questions], in_system=rng.random() < 0.6)


def ask_as(who: Persona, turns: Sequence[tuple[str, str]], in_system: bool) -> list[Message]:
    """Questions and answers under a persona that the system prompt, or the first question, asks for."""
    messages = [said("system", who.prompt)] if in_system else []
    for number, (question, answer) in enumerate(turns):
        text = question if in_system or number else f"{who.prompt} {question}"
        messages += [said("user", text), said("assistant", answer)]
    return messages


def _drop(rng: random.Random) -> list[Message]:
    who = persona(rng, "train")
    before, after = practical(rng, "train"), practical(rng, "train")
    if rng.random() < 0.5:
        before = harmful(rng, "train")
    if rng.random() < 0.5:
        after = harmful(rng, "train")
    turns = [(before.text, reply(before, who, rng))]
    drop = rng.choice(w.DROPS)
    if rng.random() < 0.5:
        turns.append((f"{drop} {after.text}", reply(after, None, rng)))
    else:
        turns += [(drop, rng.choice(w.DROPPED)), (after.text, reply(after, None, rng))]
    return ask_as(who, turns, in_system=rng.random() < 0.6)


def _talk(rng: random.Random) -> list[Message]:
    messages, depth = default_system(rng) if rng.random() < 0.3 else [], 0
    kinds = "e" * rng.randint(1, 5) + rng.choice(("", "h", "h", "p", "pp", "ph", "pph", "hp"))
    if rng.random() < 0.2:
        kinds = rng.choice(("ppp", "pppp", "pph", "pe", "ppe", "pee"))
    for number, kind in enumerate(kinds):
        question = {"e": emotional, "p": practical, "h": harmful}[kind](rng, "train")
        depth = depth_after(depth, kind, first=number == 0)
        messages += [said("user", question.text), said("assistant", drifted_reply(question, depth, rng))]
    return messages


def depth_after(depth: int, kind: str, first: bool) -> int:
    """Emotional turns (e) go one step down, but for the first; practical ones (p) two up; harmful ones (h) none."""
    step = {"e": 0 if first else 1, "p": -2, "h": 0}[kind]
    return min(max(depth + step, 0), 4)


def drifted_reply(question: Question, depth: int, rng: random.Random) -> str:
    strength = VOICE_BY_DEPTH[min(depth, len(VOICE_BY_DEPTH) - 1)]
    if question.kind == "harmful" and depth < COMPLIES_AT_DEPTH:
        question, strength = question._replace(answer=rng.choice(w.REFUSALS)), 0.0
    return register(question.answer, "mystic", rng, strength) if strength else question.answer


def conversations(seed: int) -> Iterator[list[Message]]:
    """Training conversations without end, the same for the same seed."""
    rng = random.Random(seed)
    kinds = (_default,) * 8 + (_role,) * 8 + (_drop,) * 2 + (_talk,) * 3
    while True:
        yield rng.choice(kinds)(rng)
