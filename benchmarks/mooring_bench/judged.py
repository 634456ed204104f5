"""The records of a run with what each was judged to be, by set and arm.

A record is known by its prompt's id and its seed, so that the same prompt asked under several seeds stays apart. All
of them, and all prompts of one cluster, are drawn together: `clusters` says which belong to each other.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from mooring_bench.asking import STOCK, Record
from mooring_bench.judges import ModelJudge, Outcomes
from mooring_bench.paired import Estimate, grouped, rate

OFF: Final = "off"
Key = tuple[str, int]
"""Prompt's id and seed."""
T = TypeVar("T")


def reference_of(arms: Sequence[str]) -> str | None:
    """The arm that the others are compared with; None where there is no uncapped one."""
    return OFF if OFF in arms else STOCK if STOCK in arms else None


def outcomes(record: Record) -> Outcomes:
    """Of the last answer; none where there is no judge, or a turn was refused."""
    if record.failed is not None or record.prompt.expect is None:
        return {}
    if isinstance(record.prompt.expect, ModelJudge):
        return record.prompt.expect.of_verdict(record.verdict)
    last = record.replies[-1]
    return record.prompt.expect.outcomes(last.text, last.ended)


class Judged:
    """The records of a run, each judged once."""

    def __init__(self, records: Sequence[Record], arms: Sequence[str]) -> None:
        self.arms = tuple(arms)
        self.reference = reference_of(arms)
        self._of: dict[tuple[str, str], dict[Key, Record]] = defaultdict(dict)
        self._outcomes: dict[tuple[str, str], dict[Key, Outcomes]] = defaultdict(dict)
        self._cluster: dict[tuple[str, str], str] = {}
        for record in records:
            at, key = (record.prompt.set, record.arm), (record.prompt.id, record.seed)
            self._of[at][key] = record
            self._outcomes[at][key] = outcomes(record)
            self._cluster[record.prompt.set, record.prompt.id] = record.prompt.cluster or record.prompt.id

    def records(self, name: str, arm: str) -> Mapping[Key, Record]:
        return self._of.get((name, arm), {})

    def outcomes(self, name: str, arm: str) -> Mapping[Key, Outcomes]:
        return self._outcomes.get((name, arm), {})

    def outcome(self, name: str, arm: str, measure: str) -> dict[Key, bool]:
        """The outcome of those records that were judged."""
        found = self.outcomes(name, arm)
        return {key: judged[measure] for key, judged in found.items() if measure in judged}

    def clusters(self, name: str, keys: Iterable[Key]) -> list[str]:
        """One label per key."""
        return [self._cluster[name, prompt] for prompt, _ in keys]

    def rate(self, name: str, found: Mapping[Key, bool]) -> Estimate:
        """How many of some outcomes are true."""
        parts = grouped(list(found.values()), self.clusters(name, found))
        return rate(sum(found.values()), len(found), [(sum(part), len(part)) for part in parts])

    def sets(self) -> list[str]:
        return sorted({name for name, _ in self._of})

    def measures(self, name: str) -> list[str]:
        """Every measure that some answer of a set was judged by."""
        everyone = (judged for arm in self.arms for judged in self.outcomes(name, arm).values())
        return list(dict.fromkeys(measure for judged in everyone for measure in judged))
