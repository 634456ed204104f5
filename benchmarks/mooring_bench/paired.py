"""Statistics of answers to the same items under two profiles. All intervals are two-sided, at 95 %.

    rate         share of items where an outcome is true; Wilson's score interval
    Table        the four cells of one binary outcome under a reference and under another profile
    difference   rate(other) - rate(reference), as a share (0.01 = one point). Twice bounded: by the paired
                 percentile bootstrap, which for a binary outcome is a multinomial draw of the four cells, and
                 by the adjusted Wald interval of Bonett and Price, which does not shrink to nothing where no
                 item changed. `p` is McNemar's exact test of the items that did
    cut          1 - rate(other) / rate(reference); paired percentile bootstrap
    mean         of any number per item; percentile bootstrap
    auc          chance that one of `above` is higher than one of `below`, ties halved; DeLong's variance

Items count as independent: the intervals speak of new items of the same making. Nothing is adjusted for the
number of comparisons.

Wilson 1927, doi:10.1080/01621459.1927.10502953. McNemar 1947, doi:10.1007/BF02295996.
Bonett and Price 2012, doi:10.3102/1076998611411915. DeLong et al. 1988, doi:10.2307/2531595.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Z: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""
RESAMPLES: Final = 10_000
PERCENTILES: Final = (2.5, 97.5)
CHUNK: Final = 1_000
"""Resamples held in memory at once."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; None where `n` items cannot say."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Difference(NamedTuple):
    """rate(other) - rate(reference) over the items judged under both."""

    value: float
    low: float
    high: float
    closed_low: float
    """Of Bonett and Price's interval, as `closed_high`."""
    closed_high: float
    only_reference: int
    """Items whose outcome was true under the reference alone."""
    only_other: int
    p: float
    """McNemar's exact p, two-sided."""
    n: int


class Table(NamedTuple):
    """Counts of items by their outcome under the reference and under the other profile."""

    both: int
    only_reference: int
    only_other: int
    neither: int

    @property
    def n(self) -> int:
        return sum(self)

    @classmethod
    def of(cls, reference: Sequence[bool], other: Sequence[bool]) -> "Table":
        pairs = list(zip(reference, other, strict=True))
        return cls(*(pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))))


def rate(true: int, n: int) -> Estimate:
    """Wilson's score interval of `true` out of `n`."""
    if n == 0:
        return Estimate(None, None, None, 0)
    share, grown = true / n, 1 + Z**2 / n
    middle = (share + Z**2 / (2 * n)) / grown
    half = Z / grown * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At the ends the interval reaches 0 or 1 exactly, and arithmetic would leave a rounding.
    return Estimate(share, 0.0 if true == 0 else middle - half, 1.0 if true == n else middle + half, n)


def mcnemar(only_reference: int, only_other: int) -> float:
    """Exact two-sided p that an item which changed was as likely to change either way."""
    changed, fewer = only_reference + only_other, min(only_reference, only_other)
    tail = sum(math.comb(changed, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << changed))


def difference(table: Table, seed: int) -> Difference | None:
    """None where no item was judged under both."""
    if not table.n:
        return None
    reference, other = _rates(_resampled(table, seed))
    low, high = np.percentile(other - reference, PERCENTILES)
    value = (table.only_other - table.only_reference) / table.n
    changed = table.only_reference, table.only_other
    return Difference(value, float(low), float(high), *_adjusted_wald(table), *changed, mcnemar(*changed), table.n)


def cut(table: Table, seed: int) -> Estimate:
    """How much of the reference's rate the other profile takes away; 1 = all, below 0 = it adds."""
    before, after = table.both + table.only_reference, table.both + table.only_other
    if before == 0:
        return Estimate(None, None, None, table.n)
    reference, other = _rates(_resampled(table, seed))
    seen = reference > 0  # a resample without a single true item under the reference has no cut
    low, high = np.percentile(1 - other[seen] / reference[seen], PERCENTILES)
    return Estimate(1 - after / before, float(low), float(high), table.n)


def mean(values: Sequence[float], seed: int) -> Estimate:
    if not values:
        return Estimate(None, None, None, 0)
    array, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    drawn = [array[rng.integers(0, array.size, (CHUNK, array.size))].mean(1) for _ in range(RESAMPLES // CHUNK)]
    low, high = np.percentile(np.concatenate(drawn), PERCENTILES)
    return Estimate(float(array.mean()), float(low), float(high), array.size)


def auc(above: Sequence[float], below: Sequence[float]) -> Estimate:
    if min(len(above), len(below)) < 2:
        return Estimate(None, None, None, len(above) + len(below))
    pairs = np.asarray(above)[:, None] - np.asarray(below)[None, :]
    wins = (pairs > 0) + 0.5 * (pairs == 0)
    variance = wins.mean(1).var(ddof=1) / len(above) + wins.mean(0).var(ddof=1) / len(below)
    value, half = float(wins.mean()), Z * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), len(above) + len(below))


def slope(values: Sequence[float]) -> float:
    """Least-squares change per step."""
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    return float(steps @ np.asarray(values) / (steps @ steps))


def _resampled(table: Table, seed: int) -> npt.NDArray[np.int64]:
    """(RESAMPLES, 4) tables of items drawn with replacement."""
    cells = np.asarray(table) / table.n
    return np.random.default_rng(seed).multinomial(table.n, cells, size=RESAMPLES)


def _rates(tables: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Rates under the reference and under the other profile."""
    both, only_reference, only_other, _ = tables.T
    n = tables.sum(1)
    return (both + only_reference) / n, (both + only_other) / n


def _adjusted_wald(table: Table) -> tuple[float, float]:
    n = table.n + 2
    lost, gained = (table.only_reference + 1) / n, (table.only_other + 1) / n
    half = Z * math.sqrt((lost + gained - (gained - lost) ** 2) / n)
    return max(-1.0, gained - lost - half), min(1.0, gained - lost + half)


def plain(found: Any) -> dict[str, Any] | None:
    """A NamedTuple of this file for JSON, rounded to what the items can tell."""
    if found is None:
        return None
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in found._asdict().items()}
