"""The intervals that `mooring bench` reports, on 2,000 simulated experiments each, and its tests against scipy's."""

from collections.abc import Callable

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


@pytest.mark.parametrize("pairs", [8, 12, 20, 40])
@pytest.mark.parametrize("noise", ["normal", "heavy tails"])
def test_ratios_of_paired_blocks(pairs: int, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise around 3 %. With 8 pairs the interval is a little too long, and never too short."""
    monkeypatch.setattr(blocks, "RESAMPLES", 1000)

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        noises = rng.normal(0, 0.02, pairs) if noise == "normal" else 0.01 * rng.standard_t(2, pairs)
        found = blocks.estimate(list(np.exp(np.log(1.03) + noises)))
        return found.low, found.high

    assert LOWEST <= coverage(interval, 1.03) <= (HIGHEST if pairs > 8 else 0.985)


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


def test_the_relative_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 1000)
    truth = 1 - (CELLS[0] + CELLS[2]) / (CELLS[0] + CELLS[1])

    def interval(rng: np.random.Generator) -> tuple[float | None, float | None]:
        found = paired.cut(_table(rng, 192), seed=int(rng.integers(1 << 30)))
        return found.low, found.high

    assert LOWEST <= coverage(interval, truth) <= HIGHEST


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


@pytest.mark.parametrize("n", [5, 8, 20, 100])
def test_percentiles_lie_out_as_students_t_does(n: int) -> None:
    wanted = 100 * stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    assert blocks.percentiles(n) == pytest.approx((wanted, 100 - wanted), rel=0.03)


def test_the_bootstraps_are_scipys() -> None:
    rng = np.random.default_rng(5)
    values = rng.gamma(2.0, 1.0, 60)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=rng).confidence_interval
    found = paired.mean(values.tolist(), seed=0)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.01)
    ratios = np.exp(rng.normal(0.0, 0.05, 21))
    low, high = blocks.percentiles(21)
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
