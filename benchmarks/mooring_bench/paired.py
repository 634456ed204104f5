"""Statistics of answers to the same items under two profiles. All intervals are two-sided, at 95 %.

    rate         share of items where an outcome is true; Wilson's score interval
    Table        the four cells of one binary outcome under a reference and under another profile
    difference   rate(other) - rate(reference), as a share (0.01 = one point). Twice bounded: by the paired
                 bootstrap, which for a binary outcome is a multinomial draw of the four cells, and by the
                 adjusted Wald interval of Bonett and Price, which does not shrink to nothing where no item
                 changed. `p` is McNemar's exact test of the items that did
    cut          1 - rate(other) / rate(reference); Bonett and Price's hybrid of two Wilson intervals, which
                 keeps a width where everything is cut, or nothing
    mean         of any number per item; bootstrap
    bounded      the same of numbers between -1 and 1, never narrower than the adjusted Wald interval
    auc          chance that one of `above` is higher than one of `below`, ties halved; DeLong's variance

Items are drawn alone, or in clusters: prompts that share their text, or one prompt asked under several seeds.
Intervals speak of new clusters of the same making. Bootstraps draw whole clusters. Closed forms take, in place
of the items, as many independent ones as would tell as much: n / design effect, where the design effect is the
variance between clusters over that of independent items, and 1 at least. Where no item differs from another it
cannot be told, and a cluster counts as one item. `p` then flips the signs of whole clusters. With few clusters
the number is lowered, and percentiles lie further out, as Student's t does. Nothing is adjusted for the number
of comparisons.

Wilson 1927, doi:10.1080/01621459.1927.10502953. McNemar 1947, doi:10.1007/BF02295996.
Bonett and Price 2012, doi:10.3102/1076998611411915, and 2006, doi:10.1002/sim.2440.
DeLong et al. 1988, doi:10.2307/2531595. Effective numbers: Franco et al. 2019, doi:10.1093/jssam/smy019.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
T = TypeVar("T")
Clusters = Sequence[Hashable] | None
"""One label per item; None = every item is drawn alone."""

Z: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""
RESAMPLES: Final = 10_000
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
    """McNemar's exact p, two-sided; where there are clusters, that of flipping their signs."""
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

    @classmethod
    def by(cls, reference: Sequence[bool], other: Sequence[bool], clusters: Clusters) -> list["Table"]:
        """One of each cluster; none where every item is drawn alone."""
        pairs = grouped(list(zip(reference, other, strict=True)), clusters)
        return [cls.of(*zip(*part, strict=True)) for part in pairs]


def rate(true: int, n: int, parts: Sequence[tuple[int, int]] = ()) -> Estimate:
    """Wilson's score interval of `true` out of `n`; `parts` are the same numbers of each cluster."""
    if n == 0:
        return Estimate(None, None, None, 0)
    share = true / n
    items = _effective([some - share * of for some, of in parts], n * share * (1 - share), n)
    return Estimate(share, *_wilson(share, items, Z), n)


def mcnemar(only_reference: int, only_other: int) -> float:
    """Exact two-sided p that an item which changed was as likely to change either way."""
    changed, fewer = only_reference + only_other, min(only_reference, only_other)
    tail = sum(math.comb(changed, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << changed))


def flipped(changes: Sequence[int]) -> float:
    """Exact two-sided p that each cluster's change was as likely to be the other way; McNemar's where all are +-1."""
    sums: npt.NDArray[np.floating[Any]] = np.ones(1)
    for size in map(abs, changes):
        if size:
            sums = np.convolve(sums, [0.5, *[0.0] * (2 * size - 1), 0.5])
    reach = len(sums) // 2  # the sums go from -reach to reach
    far = abs(sum(changes))
    return 1.0 if far == 0 else min(1.0, float(sums[: reach - far + 1].sum() + sums[reach + far :].sum()))


def difference(table: Table, seed: int, parts: Sequence[Table] = ()) -> Difference | None:
    """None where no item was judged under both; `parts` are the tables of the clusters, if items come in such."""
    n = table.n
    if not n:
        return None
    total, squares = table.only_other - table.only_reference, table.only_other + table.only_reference
    drawn = np.concatenate(_resampled_parts(parts, seed)) if parts else _resampled(table, seed)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 1]) / drawn.sum(1), percentiles(len(parts) or n))
    off = [part.only_other - part.only_reference - part.n * total / n for part in parts]
    share = _effective(off, squares - total**2 / n, n) / n
    closed = _adjusted_wald(total * share, squares * share, n * share)
    p = flipped([part.only_other - part.only_reference for part in parts]) if parts else mcnemar(*table[1:3])
    return Difference(total / n, float(low), float(high), *closed, *table[1:3], p, n)


def cut(table: Table, parts: Sequence[Table] = ()) -> Estimate:
    """How much of the reference's rate the other profile takes away; 1 = all, below 0 = it adds."""
    before, after = table.both + table.only_reference, table.both + table.only_other
    if before == 0:
        return Estimate(None, None, None, table.n)
    ratio = after / before
    off = [part.both + part.only_other - ratio * (part.both + part.only_reference) for part in parts]
    squares = table.both * (1 - ratio) ** 2 + table.only_reference * ratio**2 + table.only_other
    share = _effective(off, squares, table.n) / table.n
    low, high = _hybrid(*(share * cell for cell in table[:3]))
    return Estimate(1 - ratio, 1 - high, 1 - low, table.n)


def mean(values: Sequence[float], seed: int, clusters: Clusters = None) -> Estimate:
    if not values:
        return Estimate(None, None, None, 0)
    parts = grouped(list(values), clusters) or [[value] for value in values]
    sums, sizes, rng = np.array([*map(sum, parts)]), np.array([*map(len, parts)]), np.random.default_rng(seed)
    picked = (rng.integers(0, len(parts), (CHUNK, len(parts))) for _ in range(RESAMPLES // CHUNK))
    drawn = np.concatenate([sums[which].sum(1) / sizes[which].sum(1) for which in picked])
    low, high = np.percentile(drawn, percentiles(len(parts)))
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high), len(values))


def bounded(values: Sequence[float], seed: int) -> Estimate:
    """Of numbers between -1 and 1; equal ones leave an interval too."""
    found = mean(values, seed)
    if found.low is None or found.high is None:
        return found
    low, high = _adjusted_wald(sum(values), sum(value**2 for value in values), len(values))
    return found._replace(low=min(found.low, low), high=max(found.high, high))


def auc(
    above: Sequence[float], below: Sequence[float], of_above: Clusters = None, of_below: Clusters = None
) -> Estimate:
    """`of_above` and `of_below` are the clusters of both, none in common."""
    if min(len(above), len(below)) < 2:
        return Estimate(None, None, None, len(above) + len(below))
    pairs = np.asarray(above)[:, None] - np.asarray(below)[None, :]
    wins = (pairs > 0) + 0.5 * (pairs == 0)
    variance = _variance(wins.mean(1), of_above) + _variance(wins.mean(0), of_below)
    value, half = float(wins.mean()), Z * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), len(above) + len(below))


def slope(values: Sequence[float]) -> float:
    """Least-squares change per step."""
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    return float(steps @ np.asarray(values) / (steps @ steps))


def student(v: int) -> float:
    """What Student's t with v degrees of freedom exceeds in one case of 40."""
    if v == 1:
        return math.tan(0.475 * math.pi)
    if v == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    # Abramowitz and Stegun 26.7.5.
    terms = Z**3 + Z, 5 * Z**5 + 16 * Z**3 + 3 * Z, 3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z
    return Z + terms[0] / (4 * v) + terms[1] / (96 * v**2) + terms[2] / (384 * v**3)


def percentiles(n: int) -> tuple[float, float]:
    """Of the bootstrap of n values or clusters, between which a 95 % interval lies."""
    tail = 100 * NormalDist().cdf(-student(n - 1) * math.sqrt(n / (n - 1))) if n > 1 else 0.0
    return tail, 100 - tail


# --- clusters ------------------------------------------------------------------------------------


def grouped(items: Sequence[T], clusters: Clusters) -> list[list[T]]:
    """The items of each cluster; nothing where every item is drawn alone."""
    if clusters is None or len(set(clusters)) == len(items):
        return []
    parts: defaultdict[Hashable, list[T]] = defaultdict(list)
    for cluster, item in zip(clusters, items, strict=True):
        parts[cluster].append(item)
    return list(parts.values())


def _effective(sums: Sequence[float], squares: float, n: int) -> float:
    """How many independent items tell as much as `n` in clusters.

    `sums` are each cluster's deviations from the mean, added up, `squares` the squared deviations of all items.
    """
    if not sums:
        return n
    clusters, between = len(sums), sum(each**2 for each in sums)
    if clusters == 1:
        return 1.0
    design = clusters / (clusters - 1) * between / squares if squares > 1e-9 else n / clusters
    return n / max(1.0, design) * (Z / student(clusters - 1)) ** 2


def _variance(values: Array, clusters: Clusters) -> float:
    """Of the mean of the values."""
    n, off = len(values), values - values.mean()
    alone = float(off @ off) / (n * (n - 1))
    return alone * n / _effective([sum(part) for part in grouped(off.tolist(), clusters)], float(off @ off), n)


def _resampled(table: Table, seed: int) -> npt.NDArray[np.int64]:
    """(RESAMPLES, 4) tables of items drawn with replacement."""
    cells = np.asarray(table) / table.n
    return np.random.default_rng(seed).multinomial(table.n, cells, size=RESAMPLES)


def _resampled_parts(parts: Sequence[Table], seed: int) -> list[npt.NDArray[np.int64]]:
    """(CHUNK, 4) tables of clusters drawn with replacement, RESAMPLES in all."""
    cells, rng = np.asarray(parts), np.random.default_rng(seed)
    picked = (rng.integers(0, len(parts), (CHUNK, len(parts))) for _ in range(RESAMPLES // CHUNK))
    return [cells[which].sum(1) for which in picked]


# --- closed forms, whose counts may be fractions -------------------------------------------------


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    grown = 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / grown
    half = z / grown * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # At the ends the interval reaches 0 or 1 exactly, and arithmetic would leave a rounding.
    return 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half


def _hybrid(both: float, only_reference: float, only_other: float) -> tuple[float, float]:
    """Of rate(other) / rate(reference): the ends of two Wilson intervals over each other."""
    after, before, seen = both + only_other, both + only_reference, both + only_reference + only_other
    together = math.sqrt((only_reference + only_other + 2) / ((after + 1) * (before + 1)))
    apart = sum(math.sqrt((1 - (x + 1) / (seen + 2)) / (x + 1)) for x in (after, before))
    above, below = (_wilson(x / seen, seen, Z * together / apart) for x in (after, before))
    return above[0] / below[1], above[1] / below[0]


def _adjusted_wald(total: float, squares: float, n: float) -> tuple[float, float]:
    """Of a mean of changes between -1 and 1, with their sum and sum of squares: one more of -1 and one of +1."""
    middle = total / (n + 2)
    half = Z * math.sqrt(((squares + 2) / (n + 2) - middle**2) / (n + 2))
    return max(-1.0, middle - half), min(1.0, middle + half)


def plain(found: Any) -> dict[str, Any] | None:
    """A NamedTuple of this file for JSON, rounded to what the items can tell."""
    if found is None:
        return None
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in found._asdict().items()}
