"""Which session falls to which arm, what a file may say, and what the chi-square test finds."""

import math
import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mooring_axes.errors import CannotServe
from mooring_server.assignments import MISMATCH, Assignments, chi_square
from mooring_server.experiment import Experiment, Given, place_of

HALVES = {"capped": 1, "uncapped": 1}
SESSIONS = [f"user-{n}" for n in range(20_000)]


def written(weights: dict[str, float], **different: Any) -> dict[str, Any]:
    profiles = {"capped": "default", "uncapped": "off"}
    arms = {name: {"profile": profiles.get(name, "default"), "weight": weight} for name, weight in weights.items()}
    return {"name": "trial", "salt": "s", "arms": arms, "default": next(iter(weights))} | different


def experiment(weights: dict[str, float] = HALVES, **different: Any) -> Experiment:
    return Experiment.model_validate(written(weights, **different))


def arms(of: Experiment) -> list[str]:
    return [of.arm_by_hash(session) for session in SESSIONS]


def test_arms_get_sessions_by_their_weights() -> None:
    of = experiment({"capped": 6, "uncapped": 3, "gentle": 1})
    counts = Counter(arms(of))
    assert chi_square(*zip(*((counts[arm], 20_000 * share) for arm, share in of.shares.items()), strict=True)) > 0.01
    assert arms(of) == arms(experiment({"capped": 60, "uncapped": 30, "gentle": 10}))


def test_another_salt_deals_anew_and_the_arms_of_the_two_are_independent() -> None:
    first, second = arms(experiment()), arms(experiment(salt="t"))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert abs(same / 20_000 - 0.5) < 0.015


def test_places_are_uniform_in_the_unit_interval() -> None:
    places = np.sort([place_of("s", session) for session in SESSIONS])
    assert 0 <= places[0] and places[-1] < 1
    assert np.abs(places - np.linspace(0, 1, len(places))).max() < 1.63 / np.sqrt(len(places))  # Kolmogorov, 1 %


def test_other_weights_move_only_the_boundary() -> None:
    before, after = arms(experiment({"capped": 50, "uncapped": 50})), arms(experiment({"capped": 60, "uncapped": 40}))
    moved = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert set(moved) == {("trial/uncapped", "trial/capped")}
    assert abs(len(moved) / 20_000 - 0.1) < 0.01


def test_an_arm_of_weight_0_gets_no_session() -> None:
    for weights in ({"capped": 1, "uncapped": 0}, {"uncapped": 0, "capped": 1}):
        assert set(arms(experiment(weights))) == {"trial/capped"}


@pytest.mark.parametrize("nasty", ["", "a" * 10_000, "\udc80", "ü\u2028", "a\x00b"])
def test_any_text_is_a_session_and_a_salt(nasty: str) -> None:
    assert 0 <= place_of(nasty or "s", nasty) < 1


def test_without_a_session_the_default_arms_profile_is_given_and_nothing_is_counted() -> None:
    given = Assignments(experiment(default="uncapped"), None, "demo")
    assert given.give("") == Given("off", "none")
    assert given.give("s") == Given("default", "trial/capped") or given.give("s") == Given("off", "trial/uncapped")
    assert given.split is None


def test_outside_of_its_time_an_experiment_gives_nothing() -> None:
    of = experiment(**{"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00+01:00"})
    assert not of.is_on(datetime(2026, 10, 31, 23, tzinfo=UTC))
    assert of.is_on(datetime(2026, 11, 30, 22, 59, tzinfo=UTC))
    assert not of.is_on(datetime(2026, 11, 30, 23, tzinfo=UTC))
    over = Assignments(experiment(**{"to": "2020-01-01T00:00:00Z"}), None, "demo")
    assert over.give("s") is None and over.give("") is None


WRONG: list[tuple[dict[str, Any], str]] = [
    (written({"capped": 1}), "two arms at least"),
    (written({"capped": 0, "uncapped": 0}), "a weight above 0"),
    (written({"capped": -1, "uncapped": 1}), "arms.capped.weight: .*got -1"),
    (written(HALVES, default="third"), "'third', which is no arm; arms are capped, uncapped"),
    (written(HALVES, name="a/b"), "name: must be 1 to 64 of"),
    (written({"a b": 1, "c": 1}), "arms.*must be 1 to 64 of"),
    (written(HALVES, salt=""), "salt: "),
    (written(HALVES) | {"to": "2026-12-01"}, "to: "),
    (written(HALVES) | {"from": "2026-12-02T00:00:00Z", "to": "2026-12-01T00:00:00Z"}, "before it begins"),
    (written(HALVES, mood=1), "mood: is not a known key"),
    ({"name": "trial"}, "salt: is missing"),
]


@pytest.mark.parametrize(("data", "reason"), WRONG)
def test_a_file_that_cannot_be_run_says_why(data: dict[str, Any], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(CannotServe, match=reason) as refused:
        Experiment.load(file)
    assert str(file) in str(refused.value)


def test_the_file_in_the_head_of_the_module_is_one(tmp_path: Path) -> None:
    import mooring_server.experiment as module

    text = (module.__doc__ or "").split("\n\n")[1]
    file = tmp_path / "experiment.yaml"
    file.write_text("\n".join(line.removeprefix("    ") for line in text.splitlines()))
    of = Experiment.load(file)
    assert of.shares == {"capping-november/capped": 0.9, "capping-november/uncapped": 0.1}
    assert of.profiles["capping-november/uncapped"] == "off"


# --- sample-ratio mismatch -----------------------------------------------------------------------


def test_the_p_values_are_those_of_the_closed_forms() -> None:
    """One degree of freedom: erfc(sqrt(x / 2)); two: exp(-x / 2)."""
    assert chi_square([421, 379], [400, 400]) == pytest.approx(math.erfc(math.sqrt(2.205 / 2)), rel=1e-9)
    assert chi_square([30, 40, 50], [30, 30, 60]) == pytest.approx(math.exp(-2.5), rel=1e-9)
    assert chi_square([10, 4], [9.5, 4.5]) is None and chi_square([10, 0], [10, 0]) is None


def test_p_is_uniform_when_the_weights_are_kept_and_tiny_when_sessions_get_lost() -> None:
    rng = random.Random(1)
    found = []
    for _ in range(2000):
        capped = sum(rng.random() < 0.5 for _ in range(400))
        found.append(chi_square([capped, 400 - capped], [200, 200]))
    assert 0.03 < np.mean(np.array(found) < 0.05) < 0.07
    lost = chi_square([5000, 4500], [4750, 4750])
    assert lost is not None and lost < MISMATCH
