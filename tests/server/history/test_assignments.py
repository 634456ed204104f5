"""Sessions that have begun keep their arm when weights change, and lost sessions are seen; in both kinds of history."""

import time
from typing import Any

import pytest

from histories import append, record
from mooring_axes.errors import CannotServe
from mooring_server import assignments
from mooring_server.assignments import MISMATCH, Assignments
from mooring_server.experiment import Experiment
from mooring_server.history.location import open_store
from mooring_server.history.store import Store

SESSIONS = [f"user-{n}" for n in range(400)]


def experiment(capped: float, uncapped: float) -> Experiment:
    arms = {"capped": {"profile": "default", "weight": capped}, "uncapped": {"profile": "off", "weight": uncapped}}
    return Experiment.model_validate({"name": "trial_1", "salt": "s", "arms": arms, "default": "capped"})


def dealt(given: Assignments, sessions: list[str] = SESSIONS) -> dict[str, str]:
    found = {session: given.give(session) for session in sessions}
    return {session: one.arm for session, one in found.items() if one is not None}


def told(arms: dict[str, str], at: float, **different: Any) -> list[Any]:
    return [record(session=session, arm=arm, at=at, **different) for session, arm in arms.items()]


def test_sessions_that_have_begun_keep_their_arm_and_new_ones_go_by_the_new_weights(store: Store) -> None:
    first = dealt(Assignments(experiment(5, 5), store, "demo"))
    append(store, told(first, time.time()))
    later = Assignments(experiment(8, 2), store, "demo")
    assert dealt(later) == first
    new = [f"new-{n}" for n in range(1000)]
    assert dealt(later, new) == {session: experiment(8, 2).arm_by_hash(session) for session in new}
    assert len(later._moved) == sum(arm != experiment(8, 2).arm_by_hash(session) for session, arm in first.items())


def test_the_arm_in_which_a_session_began_wins(store: Store) -> None:
    of = experiment(5, 5)
    session = next(s for s in SESSIONS if of.arm_by_hash(s) == "trial_1/capped")
    now = time.time()
    append(store, told({session: "trial_1/uncapped"}, now - 9) + told({session: "trial_1/capped"}, now))
    assert dealt(Assignments(of, store, "demo"), [session]) == {session: "trial_1/uncapped"}
    other = next(s for s in SESSIONS if of.arm_by_hash(s) == "trial_1/uncapped")
    append(store, told({other: "trial_1/uncapped"}, now - 9) + told({other: "trial_1/capped"}, now), first=2)
    assert dealt(Assignments(of, store, "demo"), [other]) == {other: "trial_1/uncapped"}


def test_an_experiment_does_not_begin_without_its_history() -> None:
    away = open_store("postgresql://me@127.0.0.1:1/nowhere")
    with pytest.raises(CannotServe, match="cannot begin without its history(.|\n)*leave out --experiment"):
        Assignments(experiment(5, 5), away, "demo")


def test_a_server_sees_what_another_one_deals_with_other_weights(store: Store) -> None:
    old, new = Assignments(experiment(5, 5), store, "demo"), Assignments(experiment(9, 1), store, "demo")
    first = dealt(old)
    assert dealt(new) != first
    append(store, told(first, time.time()))
    new.look()
    assert dealt(new) == first


def test_other_experiments_models_and_removed_arms_do_not_count(store: Store) -> None:
    of, now = experiment(5, 5), time.time()
    flip = {"trial_1/capped": "uncapped", "trial_1/uncapped": "capped"}
    strangers = {
        session: arm
        for session, by_hash in dealt(Assignments(of, None, "demo")).items()
        for arm in [f"{['trialx1', 'trial_', 'other'][len(session) % 3]}/{flip[by_hash]}"]
    }
    append(store, told(strangers, now) + told({s: "trial_1/gone" for s in SESSIONS}, now))
    append(store, told({s: flip[of.arm_by_hash(s)] for s in SESSIONS}, now, model="else"), first=1000)
    given = Assignments(of, store, "demo")
    assert dealt(given) == {s: of.arm_by_hash(s) for s in SESSIONS} and not given._moved


def test_a_session_that_rested_for_long_is_dealt_anew(store: Store) -> None:
    of = experiment(5, 5)
    flip = {"trial_1/capped": "trial_1/uncapped", "trial_1/uncapped": "trial_1/capped"}
    append(store, told({s: flip[of.arm_by_hash(s)] for s in SESSIONS}, time.time() - assignments.RUNNING - 60))
    assert dealt(Assignments(of, store, "demo")) == {s: of.arm_by_hash(s) for s in SESSIONS}


# --- sample-ratio mismatch -----------------------------------------------------------------------


def split_of(store: Store, of: Experiment) -> assignments.Split:
    return assignments.split(of, store, "demo")


def test_the_split_is_counted_by_session_under_the_weights_of_its_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    first = dealt(Assignments(experiment(5, 5), store, "demo"), SESSIONS[:200])
    append(store, told(first, 1500.0) + told(first, 1600.0) + told({"x": "none"}, 1600.0))
    clock[0] = 2000.0
    second = dealt(Assignments(experiment(9, 1), store, "demo"), SESSIONS[200:])
    append(store, told(second, 2500.0), first=1000)
    found = split_of(store, experiment(9, 1))
    assert sum(found.observed.values()) == 400
    assert found.expected == pytest.approx({"trial_1/capped": 280, "trial_1/uncapped": 120})
    assert found.p is not None and found.p > 0.001
    Assignments(experiment(9, 1), store, "demo")  # the same weights again begin no new period
    assert len(store.weights_of("trial_1")) == 2


def test_sessions_that_get_lost_in_one_arm_are_a_mismatch(store: Store) -> None:
    given = Assignments(experiment(5, 5), store, "demo")
    arms = dealt(given, [f"user-{n}" for n in range(1000)])
    kept = {session: arm for n, (session, arm) in enumerate(arms.items()) if arm.endswith("/uncapped") or n % 3}
    append(store, told(kept, time.time()))
    found = split_of(store, given.experiment)
    assert found.p is not None and found.p < MISMATCH
