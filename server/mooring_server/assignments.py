"""Which arm of an experiment a session is in, and whether the arms are as many sessions apart as their weights.

By hash alone, but for sessions that the history knows from other weights: these keep the arm in which they began. Only
those whose arm is another than the hash says are held, as eight bytes each. A thread looks into the history again and
again, so that servers which are restarted one after the other with other weights agree within EVERY seconds.

A sample-ratio mismatch says that sessions of an arm get lost, and that nothing else can be compared: Pearson's
chi-square test of distinct sessions in the history against the weights that stood when each began.
"""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import torch

from mooring_axes.errors import CannotServe
from mooring_hooks.progress import say
from mooring_server import metrics
from mooring_server.experiment import Experiment, Given
from mooring_server.history.store import Store

EVERY: Final = 10.0
"""Seconds between two looks."""
SPLIT_EVERY: Final = 60.0
RUNNING: Final = 7 * 86400.0
"""Seconds without a turn after which a session is dealt anew."""
OVERLAP: Final = 60.0
"""Seconds that a look goes back behind the one before: rows come late, and clocks differ."""
MOST: Final = 1_000_000
"""Sessions that are held."""
MISMATCH: Final = 1e-4
"""p below which the split is called uneven: it is looked at many times, and chance gets as many tries."""
FEWEST: Final = 5.0
"""Expected sessions of every arm below which the test says nothing."""


class Split(NamedTuple):
    """How many sessions began in each arm."""

    observed: Mapping[str, int]
    expected: Mapping[str, float]
    p: float | None
    """Of the observed numbers, if the weights were kept; None where there are too few."""


class Assignments:
    """See the head of this file; without a store every session goes by its hash."""

    def __init__(self, experiment: Experiment, store: Store | None, model: str) -> None:
        self.experiment = experiment
        self.split: Split | None = None
        """As of the last look; None without a history."""
        self._store, self._model = store, model
        self._moved: dict[bytes, str] = {}
        self._since = self._split_at = 0.0
        self._down = False
        if store is not None:
            self._begin(store)

    def give(self, session: str) -> Given | None:
        """What a request of this session gets, "" where it has none; None outside of the experiment's time."""
        if not self.experiment.is_on():
            return None
        if not session:
            return self.experiment.fallback
        arm = self._moved.get(_key(session)) if self._moved else None
        arm = arm or self.experiment.arm_by_hash(session)
        return Given(self.experiment.profiles[arm], arm)

    def _begin(self, store: Store) -> None:
        """CannotServe where the history is away: sessions that began under other weights would change their arm."""
        try:
            store.note_weights(self.experiment.name, self.experiment.shares)
            self.look()
        except Exception as error:  # each database has its own ways to be away
            raise CannotServe(
                f"the experiment {self.experiment.name!r} cannot begin without its history: {error}\n"
                "  only the history knows in which arm a session began: start its database, or leave out --experiment"
            ) from error

    def watch(self) -> None:
        """Look again and again, in a thread of its own."""
        if self._store is not None:
            threading.Thread(target=self._run, name="mooring-experiment", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(EVERY)
            try:
                self.look()
            except Exception as error:  # each database has its own ways to be away
                if not self._down:
                    say(f"experiment: the history cannot be read, sessions go by what is known: {error}")
                self._down = True
            else:
                self._down = False

    def look(self) -> None:
        """Take over what the history says."""
        assert self._store is not None
        now, prefix = time.time(), self.experiment.prefix
        for session, arm in self._store.arms_of(self._model, prefix, max(self._since, now - RUNNING)):
            self._take(session, arm)
        self._since = now - OVERLAP
        if now >= self._split_at:
            self.split, self._split_at = split(self.experiment, self._store, self._model), now + SPLIT_EVERY
            metrics.tell_split(self._model, *self.split)

    def _take(self, session: str, arm: str) -> None:
        key, by_hash = _key(session), self.experiment.arm_by_hash(session)
        if arm not in self.experiment.profiles or key in self._moved or arm == by_hash or len(self._moved) >= MOST:
            return
        self._moved[key] = arm


def _key(session: str) -> bytes:
    return blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def split(experiment: Experiment, store: Store, model: str) -> Split:
    """Of all sessions that the history still holds."""
    observed = dict.fromkeys(experiment.shares, 0)
    expected = dict.fromkeys(experiment.shares, 0.0)
    periods = store.weights_of(experiment.name)
    for (since, shares), until in zip(periods, [at for at, _ in periods[1:]] + [math.inf], strict=True):
        found = store.sessions_by_arm(model, experiment.prefix, since, until)
        counted = {arm: count for arm, count in found.items() if arm in shares}
        for arm, share in shares.items():
            observed[arm] = observed.get(arm, 0) + counted.get(arm, 0)
            expected[arm] = expected.get(arm, 0.0) + share * sum(counted.values())
    return Split(observed, expected, chi_square(list(observed.values()), list(expected.values())))


def chi_square(observed: Sequence[float], expected: Sequence[float]) -> float | None:
    """p of Pearson's test; None where an arm that should have sessions is expected to have fewer than FEWEST."""
    cells = [(o, e) for o, e in zip(observed, expected, strict=True) if e > 0]
    if len(cells) < 2 or min(e for _, e in cells) < FEWEST:
        return None
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))

