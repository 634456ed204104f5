"""The intervals that `mooring bench` reports, on 2,000 simulated experiments each, and its tests against scipy's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mooring_bench import blocks, paired

EXPERIMENTS = 2000
LOWEST, HIGHEST = 0.93, 0.97

Draw = Callable[[np.random.Generator], "tuple[float | None, float | None]"]


def coverage(interval: Draw, truth: float) -> float:
    rng, covered = np.random.default_rng(11), 0
    for _ in range(EXPERIMENTS):
        low, high = interval(rng)
        assert low is not None and high is not None
        covered += low <= truth <= high
    return covered / EXPERIMENTS


@pytest.mark.parametrize("pairs", [2, 4, 8, 12, 20, 40])
@pytest.mark.parametrize("noise", ["normal", "heavy tails"])
def test_ratios_of_paired_blocks(pairs: int, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise around 3 %."""
    monkeypatch.setattr(blocks, "RESAMPLES", 1000)

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        noises = rng.normal(0, 0.02, pairs) if noise == "normal" else 0.01 * rng.standard_t(2, pairs)
        found = blocks.estimate(list(np.exp(np.log(1.03) + noises)))
        return found.low, found.high

    heavy_and_few = noise == "heavy tails" and pairs < blocks.FEW  # Student's t is then a little too long
    assert LOWEST <= coverage(interval, 1.03) <= (0.99 if heavy_and_few else HIGHEST)


@pytest.mark.parametrize("starts", [2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 0.02, 0.04])
def test_ratios_of_several_starts(starts: int, between: float) -> None:
    """Four pairs each, 2 % around their start; starts lie `between` apart."""
    which = np.repeat(np.arange(starts), 4)

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        logs = np.log(1.03) + rng.normal(0, between, starts)[which] + rng.normal(0, 0.02, which.size)
        found = blocks.estimate(list(np.exp(logs)), which.tolist())
        return found.low, found.high

    assert LOWEST <= coverage(interval, 1.03) <= HIGHEST


CELLS = (0.3, 0.4, 0.05, 0.25)


@pytest.mark.parametrize("items", [192, 400])
@pytest.mark.parametrize("which", ["bootstrap", "closed"])
def test_the_difference_of_two_rates(items: int, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 1000)

    def interval(rng: np.random.Generator) -> tuple[float, float]:
        found = paired.difference(_table(rng, items), seed=int(rng.integers(1 << 30)))
        assert found is not None
        return (found.low, found.high) if which == "bootstrap" else (found.closed_low, found.closed_high)

    assert LOWEST <= coverage(interval, CELLS[2] - CELLS[1]) <= HIGHEST


CUTS = {
    "some": CELLS,
    "nearly all": (0.005, 0.95, 0.0, 0.045),
    "all": (0.0, 0.96, 0.0, 0.04),
    "nearly nothing": (0.955, 0.004, 0.004, 0.037),
    "of little": (0.01, 0.03, 0.005, 0.955),
}


@pytest.mark.parametrize("cells", CUTS.values(), ids=CUTS)
def test_the_relative_cut(cells: tuple[float, ...]) -> None:
    """Where all or nothing is cut, the interval is too long rather than too short."""
    truth = 1 - (cells[0] + cells[2]) / (cells[0] + cells[1])

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        found = paired.cut(paired.Table(*map(int, rng.multinomial(400, cells))))
        return found.low, found.high

    assert LOWEST <= coverage(interval, truth) <= (HIGHEST if cells is CELLS else 1.0)


ALIKE = 0.3
"""Correlation of two items of one cluster."""


@pytest.mark.parametrize("what", ["rate", "difference", "closed", "cut", "mean"])
def test_items_in_clusters(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 clusters of 2 to 24 items. Were they counted as independent, a rate would be held in 61 % and not in 95."""
    for name in ("RESAMPLES", "CHUNK"):
        monkeypatch.setattr(paired, name, 600)
    truths = {"rate": 0.5, "difference": -0.4, "closed": -0.4, "cut": 0.8, "mean": 0.5}

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        sizes = rng.integers(2, 25, 30)
        harm = rng.beta(0.5 * (1 / ALIKE - 1), 0.5 * (1 / ALIKE - 1), 30)
        labels = np.repeat(np.arange(30), sizes)
        before = rng.random(labels.size) < harm[labels]
        after = before & (rng.random(labels.size) < 0.2)
        return _of_clusters(what, before, after, labels)

    assert LOWEST <= coverage(interval, truths[what]) <= HIGHEST


def _of_clusters(what: str, before: Any, after: Any, labels: Any) -> tuple[float | None, float | None]:
    parts = paired.Table.by(before.tolist(), after.tolist(), labels.tolist())
    table = paired.Table(*np.sum(parts, 0).tolist())
    if what == "rate":
        found = paired.rate(int(before.sum()), before.size, [(p.both + p.only_reference, p.n) for p in parts])
        return found.low, found.high
    if what in ("difference", "closed"):
        change = paired.difference(table, 0, parts)
        assert change is not None
        return (change.low, change.high) if what == "difference" else (change.closed_low, change.closed_high)
    found = paired.cut(table, parts) if what == "cut" else paired.mean(before.tolist(), 0, labels.tolist())
    return found.low, found.high


def test_a_rate() -> None:
    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        found = paired.rate(int(rng.binomial(400, 0.3)), 400)
        return found.low, found.high

    assert LOWEST <= coverage(interval, 0.3) <= HIGHEST


def test_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 1000)

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        found = paired.mean(rng.normal(0.3, 1.0, 100).tolist(), seed=int(rng.integers(1 << 30)))
        return found.low, found.high

    assert LOWEST <= coverage(interval, 0.3) <= HIGHEST


def _table(rng: np.random.Generator, items: int) -> paired.Table:
    return paired.Table(*map(int, rng.multinomial(items, CELLS)))


# --- beside scipy --------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 9), (30, 10), (7, 8), (200, 260)])
def test_mcnemar_is_scipys_binomial_test(lost: int, gained: int) -> None:
    wanted = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert paired.mcnemar(lost, gained) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("true", "n"), [(0, 20), (3, 50), (81, 263), (50, 50)])
def test_wilson_is_scipys(true: int, n: int) -> None:
    wanted = stats.binomtest(true, n).proportion_ci(method="wilson")
    found = paired.rate(true, n)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@pytest.mark.parametrize("v", [1, 2, 3, 4, 7, 19, 100])
def test_students_quantile_is_scipys(v: int) -> None:
    assert paired.student(v) == pytest.approx(stats.t.ppf(0.975, v), rel=0.01)


@pytest.mark.parametrize("n", [5, 8, 20, 100])
def test_percentiles_lie_out_as_students_t_does(n: int) -> None:
    wanted = 100 * stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    assert paired.percentiles(n) == pytest.approx((wanted, 100 - wanted), rel=0.03)


def test_the_bootstraps_are_scipys() -> None:
    rng = np.random.default_rng(5)
    values = rng.gamma(2.0, 1.0, 60)
    low, high = paired.percentiles(60)
    wanted = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, confidence_level=(high - low) / 100, rng=rng
    ).confidence_interval  # fmt: skip
    found = paired.mean(values.tolist(), seed=0)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.01)
    ratios = np.exp(rng.normal(0.0, 0.05, 21))
    low, high = paired.percentiles(21)
    wanted = stats.bootstrap(
        (np.log(ratios),), np.median, method="percentile", n_resamples=20_000, confidence_level=(high - low) / 100,
        rng=rng,
    ).confidence_interval  # fmt: skip
    pairs = blocks.estimate(ratios.tolist())
    assert pairs.low is not None and pairs.high is not None
    assert (np.log(pairs.low), np.log(pairs.high)) == pytest.approx((wanted.low, wanted.high), abs=0.004)


def test_the_chi_square_of_a_split_is_scipys() -> None:
    from mooring_server.assignments import chi_square

    for observed, expected in (([421, 379], [400, 400]), ([5000, 4500, 480], [4990, 4491, 499])):
        assert chi_square(observed, expected) == pytest.approx(stats.chisquare(observed, expected).pvalue, rel=1e-9)
