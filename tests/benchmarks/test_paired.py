"""The statistics of paired answers against closed forms, exact sums and simulated coverage."""

import math
from itertools import product

import numpy as np
import pytest

from mooring_bench import paired
from mooring_bench.paired import Table


def test_wilson_is_the_published_interval() -> None:
    # Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I, method 3.
    known = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (true, n), bounds in known.items():
        found = paired.rate(true, n)
        assert found.value == true / n
        assert (found.low, found.high) == pytest.approx(bounds, abs=5e-5)


def test_wilson_reaches_the_ends_exactly_and_says_nothing_of_nothing() -> None:
    assert paired.rate(0, 9).low == 0.0 and paired.rate(9, 9).high == 1.0
    assert paired.rate(0, 0) == (None, None, None, 0)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45, 0.9])
def test_wilson_covers_about_95_percent(share: float) -> None:
    n = 200
    covered = 0.0
    for true in range(n + 1):
        found = paired.rate(true, n)
        assert found.low is not None and found.high is not None
        if found.low <= share <= found.high:
            covered += math.comb(n, true) * share**true * (1 - share) ** (n - true)
    assert covered == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize(
    ("only_reference", "only_other", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625), (1, 9, 22 / 1024), (9, 1, 22 / 1024), (0, 10, 2 / 1024)],
)
def test_mcnemar_is_the_binomial_sum(only_reference: int, only_other: int, p: float) -> None:
    assert paired.mcnemar(only_reference, only_other) == pytest.approx(p)


def test_mcnemar_stands_thousands_of_changes() -> None:
    normal = math.erfc((60 - 1) / math.sqrt(2300) / math.sqrt(2))  # with continuity correction
    assert paired.mcnemar(1120, 1180) == pytest.approx(normal, rel=0.02)


def test_a_table_counts_the_four_cells() -> None:
    reference, other = zip(*product((True, False), repeat=2), strict=True)
    assert Table.of(reference, other) == (1, 1, 1, 1)
    assert Table.of([True, True, False], [False, True, False]) == (1, 1, 0, 1)
    with pytest.raises(ValueError):
        Table.of([True], [True, False])


def test_the_difference_is_other_minus_reference() -> None:
    found = paired.difference(Table(50, 30, 10, 10), seed=0)
    assert found is not None
    assert found.value == pytest.approx(-0.2)
    assert (found.only_reference, found.only_other, found.n) == (30, 10, 100)
    wald = 1.96 * math.sqrt(0.4 - 0.04) / 10
    assert (found.low, found.high) == pytest.approx((-0.2 - wald, -0.2 + wald), abs=0.012)
    assert (found.closed_low, found.closed_high) == pytest.approx((-0.2 - wald, -0.2 + wald), abs=0.012)


def test_no_change_leaves_the_bootstrap_without_width_and_the_closed_form_with_one() -> None:
    found = paired.difference(Table(390, 0, 0, 10), seed=0)
    assert found is not None
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    half = 1.959964 * math.sqrt((2 / 402) / 402)
    assert (found.closed_low, found.closed_high) == pytest.approx((-half, half))
    assert paired.difference(Table(0, 0, 0, 0), seed=0) is None


def test_drawing_the_four_cells_is_drawing_the_items() -> None:
    table = Table(60, 25, 5, 30)
    cells = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], table, axis=0)
    rng = np.random.default_rng(1)
    drawn = cells[rng.integers(0, table.n, (paired.RESAMPLES, table.n))].mean(1)
    found, cut = paired.difference(table, seed=2), paired.cut(table)
    assert found is not None
    by_item = np.percentile(drawn[:, 1] - drawn[:, 0], paired.percentiles(table.n))
    assert (found.low, found.high) == pytest.approx(tuple(by_item), abs=0.011)
    by_item = np.percentile(1 - drawn[:, 1] / drawn[:, 0], paired.percentiles(table.n))
    assert (cut.low, cut.high) == pytest.approx(tuple(by_item), abs=0.02)


@pytest.mark.parametrize("cells", [(0.3, 0.4, 0.05, 0.25), (0.93, 0.03, 0.02, 0.02)])
def test_paired_intervals_cover_about_95_percent(cells: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 2000)
    rng = np.random.default_rng(3)
    truth = cells[2] - cells[1], 1 - (cells[0] + cells[2]) / (cells[0] + cells[1])
    covered = np.zeros(3)
    runs = 200
    for run in range(runs):
        table = Table(*map(int, rng.multinomial(200, cells)))
        found, cut = paired.difference(table, seed=run), paired.cut(table)
        assert found is not None and cut.low is not None and cut.high is not None
        covered += [
            found.low <= truth[0] <= found.high,
            found.closed_low <= truth[0] <= found.closed_high,
            cut.low <= truth[1] <= cut.high,
        ]
    assert covered / runs == pytest.approx(0.95, abs=0.045)


def test_a_cut_is_relative_and_needs_something_to_cut() -> None:
    assert paired.cut(Table(40, 60, 0, 100)).value == pytest.approx(0.6)
    assert paired.cut(Table(40, 0, 10, 50)).value == pytest.approx(-0.25)
    assert paired.cut(Table(0, 0, 5, 5)) == (None, None, None, 10)


def test_a_cut_has_the_published_interval_and_a_width_at_the_edge() -> None:
    # Fagerland, Lydersen and Laake 2014, doi:10.1002/sim.6148: airways before and after, a ratio of 2 / 8.
    found = paired.cut(Table(1, 7, 1, 12))
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 1 - 0.923, 1 - 0.068), abs=5e-4)
    everything, nothing = paired.cut(Table(0, 384, 0, 16)), paired.cut(Table(384, 0, 0, 16))
    assert (everything.value, everything.high) == (1.0, 1.0) and 0.98 < (everything.low or 0) < 0.995
    assert nothing.value == 0.0 and nothing.low == pytest.approx(-0.005, abs=1e-3) == -(nothing.high or 0)


def test_items_in_clusters_count_as_fewer() -> None:
    alone = paired.rate(200, 400)
    whole = paired.rate(200, 400, [(4, 4)] * 50 + [(0, 4)] * 50)  # all of a cluster are alike: 100 items
    mixed = paired.rate(200, 400, [(2, 4)] * 100)  # no cluster differs from another: still 400, less Student's t
    hundred = paired.rate(50, 100)
    assert None not in (alone.low, whole.low, mixed.low, hundred.low)
    assert whole.low == pytest.approx(hundred.low, abs=2e-3) and mixed.low == pytest.approx(alone.low, abs=1e-3)
    assert paired.rate(400, 400, [(4, 4)] * 100).low == pytest.approx(paired.rate(100, 100).low, abs=2e-3)


def test_clusters_of_one_item_change_nothing() -> None:
    reference, other = [True, True, False, False] * 20, [True, False, False, True] * 20
    assert Table.by(reference, other, range(80)) == Table.by(reference, other, None) == []
    assert paired.mean([1.0, 2.0, 3.0], 0, "abc") == paired.mean([1.0, 2.0, 3.0], 0)
    assert paired.auc([1.0, 3.0], [0.0, 2.0], "ab", "cd") == paired.auc([1.0, 3.0], [0.0, 2.0])


def test_the_tables_of_clusters_add_up_and_widen_every_interval() -> None:
    reference, other = [True] * 60 + [False] * 20, ([True] * 5 + [False] * 5) * 8
    parts = Table.by(reference, other, [i // 5 for i in range(80)])
    table = Table.of(reference, other)
    assert len(parts) == 16 and tuple(map(sum, zip(*parts, strict=True))) == table
    alone, wide = paired.difference(table, 0), paired.difference(table, 0, parts)
    assert alone is not None and wide is not None
    assert wide.high - wide.low > 1.8 * (alone.high - alone.low)
    assert wide.closed_high - wide.closed_low > 1.8 * (alone.closed_high - alone.closed_low)
    assert wide.p > alone.p and wide.value == alone.value
    narrow, broad = paired.cut(table), paired.cut(table, parts)
    assert (broad.high or 0) - (broad.low or 0) > 1.8 * ((narrow.high or 0) - (narrow.low or 0))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (1, 9), (40, 12)])
def test_flipping_items_one_by_one_is_mcnemars_test(lost: int, gained: int) -> None:
    changes = [-1] * lost + [1] * gained + [0] * 7
    assert paired.flipped(changes) == pytest.approx(paired.mcnemar(lost, gained))
    assert paired.flipped([-5, -3, 0]) == 0.5  # of four ways to sign them two are as far from 0


def test_equal_scores_leave_an_interval() -> None:
    found = paired.bounded([0.0] * 100, seed=0)
    assert found.value == 0.0 and found.low == pytest.approx(-0.0272, abs=1e-3) == -(found.high or 0)
    assert paired.bounded([], seed=0) == (None, None, None, 0)


def test_the_same_seed_gives_the_same_interval() -> None:
    table, values = Table(50, 30, 10, 10), [0.1, 0.5, 0.7, 2.0]
    assert paired.difference(table, 4) == paired.difference(table, 4)
    assert paired.mean(values * 9, 4) == paired.mean(values * 9, 4) != paired.mean(values * 9, 5)


def test_the_mean_has_the_width_of_its_standard_error() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, 400)
    found = paired.mean(list(values), seed=0)
    assert found.value == pytest.approx(values.mean())
    assert found.high is not None and found.low is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert paired.mean([], seed=0) == (None, None, None, 0)


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert paired.auc([3.0, 4.0], [1.0, 2.0]).value == 1.0
    assert paired.auc([1.0, 2.0], [1.0, 2.0]).value == 0.5
    assert paired.auc([2.0, 2.0], [2.0, 1.0]).value == 0.75
    assert paired.auc([2.0], [1.0, 0.0]).value is None


def test_aucs_interval_covers_about_95_percent() -> None:
    rng = np.random.default_rng(6)
    truth = 0.5 * math.erfc(-1.0 / math.sqrt(2) / math.sqrt(2))  # two normals, one standard deviation apart
    covered = 0
    for _ in range(400):
        found = paired.auc(list(rng.normal(1.0, 1.0, 60)), list(rng.normal(0.0, 1.0, 80)))
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_a_slope_is_the_least_squares_line() -> None:
    assert paired.slope([1.0, 3.0, 5.0]) == pytest.approx(2.0)
    assert paired.slope([0.2, 0.7, 0.4, 0.9]) == pytest.approx(float(np.polyfit(range(4), [0.2, 0.7, 0.4, 0.9], 1)[0]))


def test_numbers_for_json_are_plain_and_rounded() -> None:
    assert paired.plain(paired.rate(1, 3)) == {"value": 0.33333, "low": 0.06149, "high": 0.79234, "n": 3}
    assert paired.plain(None) is None
