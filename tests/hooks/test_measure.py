"""The numbers of a reply, against their definitions worked out by hand."""

import numpy as np
import pytest

from mooring_axes.artifact import Axis
from mooring_axes.profiles import Profile, ResolvedProfile, off_profile, resolve
from mooring_hooks.inbox import Rows
from mooring_hooks.measure import Measure, Reading
from mooring_hooks.table import SlotTable

OFF, FLOOR, STEER, OTHER = range(4)


def axis(seed: int = 0, means: bool = True) -> Axis:
    directions = np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)
    norms = np.linalg.norm(directions, axis=1)
    ramp = np.arange(4, dtype=np.float32)
    known = {"default_mean": 10 + ramp, "role_mean": 2 + ramp} if means else {}
    return Axis(directions / norms[:, None], norms, model="m", monitored_layer=1, **known)


def profiles() -> list[ResolvedProfile]:
    served = axis()
    floor = Profile.model_validate({"name": "floor", "layers": [2, 3], "floor": [5.0, 6.0]})
    steer = Profile.model_validate({"name": "steer", "layers": [0], "shift": 0.5})
    other = Profile.model_validate({"name": "other", "layers": [2], "floor": 0.0})
    return [
        off_profile(served),
        resolve(floor, served),
        resolve(steer, served),
        resolve(other, axis(seed=1, means=False)),
    ]


@pytest.fixture(scope="module")
def measure() -> Measure:
    return Measure(SlotTable.build(profiles()))  # sites: layers 0, 1, 2, 3


PROJECTIONS = np.array([[1, 1, 1, 1], [9, 7, 5, 3], [4, 6, 8, 2], [7, 8, 9, 6]], np.float32)


def rows(slots: list[int], tokens: int = 4) -> Rows:
    return Rows(np.arange(tokens, dtype=np.int32), np.array(slots, np.int32), PROJECTIONS[:, :tokens])


def read(measure: Measure, slot: int) -> Reading:
    return measure.read(rows([slot] * 4), slot, complete=True)


def test_projection_is_the_mean_over_the_answer_before_the_cap(measure: Measure) -> None:
    reading = read(measure, FLOOR)
    assert reading.projection == 6.0 and reading.tokens == 4
    assert {layer: means[0] for layer, means in reading.layers.items()} == {0: 1.0, 1: 6.0, 2: 5.0, 3: 7.5}


def test_drift_is_nought_at_the_default_mean_and_one_at_the_role_mean(measure: Measure) -> None:
    assert read(measure, FLOOR).drift == pytest.approx((11 - 6) / (11 - 3))


def test_lift_is_what_the_cap_added(measure: Measure) -> None:
    reading = read(measure, FLOOR)
    assert reading.lifts.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 3], [0, 0, 0, 0]]
    assert reading.lifted_share == 0.5 and reading.mean_lift == 0.5
    assert reading.layers[2][1:] == (1.0, 0.5) and reading.layers[3][1:] == (0.0, 0.0)


def test_off_lifts_nothing_and_measures_all(measure: Measure) -> None:
    reading = read(measure, OFF)
    assert not reading.lifts.any() and reading.lifted_share == reading.mean_lift == 0.0
    assert reading.projection == 6.0 and reading.drift == read(measure, FLOOR).drift


def test_steering_lifts_every_token_by_its_shift(measure: Measure) -> None:
    reading = read(measure, STEER)
    assert reading.lifts[0].tolist() == [0.5] * 4 and reading.lifted_share == 1.0 and reading.mean_lift == 0.5
    assert measure.monitored_after_cap(STEER) and not measure.monitored_after_cap(FLOOR)


def test_every_row_is_judged_by_the_slot_it_ran_in(measure: Measure) -> None:
    reading = measure.read(rows([FLOOR, OFF, OFF, OFF]), FLOOR, complete=True)
    assert reading.lifts[2].tolist() == [1, 0, 0, 0] and reading.lifted_share == 0.25


def test_an_axis_without_means_has_no_drift(measure: Measure) -> None:
    assert read(measure, OTHER).drift is None and read(measure, OTHER).projection == 6.0


def test_no_tokens_are_no_reading(measure: Measure) -> None:
    reading = measure.read(rows([], tokens=0), FLOOR, complete=True)
    assert (reading.projection, reading.drift, reading.lifted_share, reading.mean_lift) == (None,) * 4
    assert reading.tokens == 0 and reading.complete and reading.layers == {}
