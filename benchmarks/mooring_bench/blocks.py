"""The order in which arms are measured, and what their paired blocks say.

A round holds one block per arm, and a pair is two arms of one round. Rounds follow Williams' design, each order
followed at once by its mirror image: over two rounds a drift that is linear in time favours no arm, and over a whole
design every arm stands at every place equally often and follows every other arm equally often. Two arms: ABBA.

Where a block is made of waves, the arms of a round take turns: a block is not one stretch but several of a few
seconds each, every one of a round in the reverse order of the one before. A neighbour who takes the machine for ten
seconds then slows all arms alike, and not the one whose block it was.

    ratio      arm / baseline of one round
    estimate   median of the ratios, with a 95 % expanded percentile bootstrap on the log scale: the percentiles lie
               further out the fewer pairs there are, as Student's t does, else intervals of 12 pairs are too short.
               Of fewer than FEW pairs, which a bootstrap of medians cannot say enough of, Student's t
    null       the same for the baseline against itself: its block in every second round over that in the round before

The blocks of a null pair lie as far apart as, or further than, those of a ratio: its interval is what the machine
does to a comparison of a thing with itself.

Two starts of the same server can differ, by where their memory came to lie, and no number of rounds between the same
two servers shows it. Where a run has several starts, each is one observation, its median, and the interval is Student's
t of these: long where there are two or three starts, and as long as it has to be.

Williams 1949, doi:10.1071/CH9490149. Hesterberg 2015, doi:10.1080/00031305.2015.1089789.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mooring_bench.paired import percentiles, student

RESAMPLES: Final = 10_000
SEED: Final = 0
FEW: Final = 12
TURN_SECONDS: Final = 3.0
"""Long enough that what a server does after an answer mostly falls into its own turn."""
REST_SECONDS: Final = 1.5
"""Before another server's turn, where nobody stops it meanwhile: a vLLM worker looks for work without a pause for a
second after its last, and takes that from the next server on the same machine."""


Array = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """Of a ratio; None where there is no pair, and no interval of fewer than two."""

    median: float | None
    low: float | None
    high: float | None
    spread: float | None
    """Standard deviation of the log ratios."""
    pairs: list[float]
    by_start: list[float]
    """Median of each start."""


def orders(arms: Sequence[str], rounds: int) -> list[list[str]]:
    """The order of the arms in each round."""
    design = _design(len(arms))
    return [[arms[i] for i in design[number % len(design)]] for number in range(rounds)]


class Turns(NamedTuple):
    """How a block is divided."""

    times: int
    waves: int
    """In each."""

    @property
    def total(self) -> int:
        """Waves of the block."""
        return self.times * self.waves


def turns(block_seconds: float, wave_seconds: float) -> Turns:
    """Whole waves that fill a block, in turns of about TURN_SECONDS, of one wave at least."""
    waves = max(1, round(TURN_SECONDS / wave_seconds))
    return Turns(math.ceil(block_seconds / (waves * wave_seconds)), waves)


def in_turn(order: Sequence[str], times: int) -> Iterator[tuple[int, str]]:
    """(turn, arm) of one round: every turn in the reverse order of the one before."""
    for turn in range(times):
        for arm in order[:: -1 if turn % 2 else 1]:
            yield turn, arm


def spread(order: Sequence[list[str]], starts: int) -> list[list[tuple[int, list[str]]]]:
    """The rounds, (number, order of the arms), of each start of the servers; as many in each as can be."""
    rounds, per_start = list(enumerate(order)), -(-len(order) // starts)
    return [rounds[first : first + per_start] for first in range(0, len(rounds), per_start)]


def _design(n: int) -> list[tuple[int, ...]]:
    """Rows of Williams' design, each followed by its mirror image."""
    first = [(place + 1) // 2 if place % 2 else -place // 2 for place in range(n)]
    shifted = [tuple((i + shift) % n for i in first) for shift in range(n)]
    mirrored = [row for one in shifted for row in (one, one[::-1])]
    return list(dict.fromkeys(mirrored))


def estimate(ratios: Sequence[float], starts: Sequence[int] | None = None) -> Estimate:
    """Median and interval of ratios above 0; `starts` says which start of the servers each is from."""
    if not ratios:
        return Estimate(None, None, None, None, [], [])
    logs = np.log(np.asarray(ratios, np.float64))
    parts = by_start(logs, starts)
    medians = [float(np.exp(np.median(part))) for part in parts]
    median = float(np.exp(np.median(logs)))
    if (found := interval(logs, starts)) is None:
        return Estimate(median, None, None, None, list(ratios), medians)
    low, high = np.exp(found)
    return Estimate(median, float(low), float(high), float(logs.std(ddof=1)), list(ratios), medians)


def interval(values: Array, starts: Sequence[int] | None = None) -> tuple[float, float] | None:
    """95 % of what values about as large as these are drawn around; see the head of this file. None of one value."""
    parts = by_start(values, starts)
    if len(parts) > 1:
        return _students(np.array([np.median(part) for part in parts]))
    if len(values) < 2:
        return None
    if len(values) < FEW:
        return _students(values)
    low, high = np.percentile(_medians(values), percentiles(len(values)))
    return float(low), float(high)


def _students(values: Array) -> tuple[float, float]:
    half = student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def by_start(values: Array, starts: Sequence[int] | None) -> list[Array]:
    """The values of each start, in the order in which starts come; all in one where there is but one."""
    which = np.zeros(len(values), int) if starts is None else np.asarray(starts)
    return [values[which == start] for start in dict.fromkeys(which.tolist())]


def _medians(values: Array) -> Array:
    """(RESAMPLES,) medians of values drawn with replacement."""
    rng = np.random.default_rng(SEED)
    medians: Array = np.median(values[rng.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
    return medians


def rounded(found: Estimate) -> dict[str, Any]:
    """The same as a result shows it."""
    lists = {"pairs": found.pairs, "by_start": found.by_start}
    single = {name: value for name, value in found._asdict().items() if name not in lists}
    rest: dict[str, Any] = {name: [round(value, 5) for value in values] for name, values in lists.items()}
    return {name: None if value is None else round(value, 5) for name, value in single.items()} | rest


def paired(blocks: Sequence[Mapping[str, Any]], arm: str, baseline: str, number: str) -> list[float]:
    """arm / baseline of every round that holds both; `number` is the key of what is compared."""
    above, below = _by_round(blocks, arm, number), _by_round(blocks, baseline, number)
    return [above[r] / below[r] for r in sorted(above.keys() & below.keys())]


def starts_of(blocks: Sequence[Mapping[str, Any]], arm: str, baseline: str, number: str) -> list[int]:
    """Which start each of the `paired` ratios is from."""
    rounds = _by_round(blocks, arm, number).keys() & _by_round(blocks, baseline, number).keys()
    start = {b["round"]: b.get("start", 0) for b in blocks}
    return [start[r] for r in sorted(rounds)]


def null(blocks: Sequence[Mapping[str, Any]], arm: str, number: str) -> list[float]:
    """An arm against itself in neighbouring rounds of one start, no block in two pairs."""
    values, start = _by_round(blocks, arm, number), {b["round"]: b.get("start", 0) for b in blocks}
    pairs = [(r, r + 1) for r in sorted(values) if r % 2 == 0 and r + 1 in values]
    return [values[later] / values[earlier] for earlier, later in pairs if start[earlier] == start[later]]


def _by_round(blocks: Sequence[Mapping[str, Any]], arm: str, number: str) -> dict[int, float]:
    return {b["round"]: b[number] for b in blocks if b["arm"] == arm and b[number] is not None}
