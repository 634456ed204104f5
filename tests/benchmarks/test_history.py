"""benchmarks/history.py: a small feed for real, and the comparison of answers on fakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import history
from last_frames import Heard


def test_a_feed_counts_every_turn_and_leaves_the_other_part_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "history.json"
    out.write_text(json.dumps({"benchmark": "history", "answers": {"kept": "as it was"}, "feed": "old"}))
    history.main(["feed", "--rate", "500", "--seconds", "0.5", "--out", str(out)])
    document = json.loads(out.read_text())
    assert document["answers"] == {"kept": "as it was"}
    assert document["feed"] == json.loads(capsys.readouterr().out.splitlines()[-1])
    fed = document["feed"]["fed"]
    assert fed["sqlite"]["turns"] == fed["sqlite"]["acknowledged"] == fed["sqlite"]["kept"] > 0
    assert fed["sqlite"]["lost"] == 0 and "acknowledged" not in fed["nothing"]
    assert [target["met"] for target in document["feed"]["targets"] if "lost" in target["what"]] == [True]


def test_a_lost_turn_or_a_late_loop_misses_the_target() -> None:
    bad = {"lost": 1, "late_ms": {"p99": 1.5}}
    good = {"lost": 0, "late_ms": {"p99": 0.5}}
    assert [t["met"] for t in history.feed_targets({"nothing": {}, "sqlite": bad})] == [False, False]
    assert [t["met"] for t in history.feed_targets({"nothing": {}, "sqlite": good})] == [True, True]
    assert history.target_of("x", None, 1.0)["met"] is None


class FakeServer:
    name = "fake"

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...

    def cpu_by_process(self) -> dict[str, float]:
        return {"api": 0.0}


def test_answers_are_compared_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def send(self: history.Asked, load: str, arm: str, waves: int, *seed: int) -> Heard:
        asked.append((load, arm, waves, seed))
        seconds = 0.1 + (0.0005 if arm == history.KEPT else 0.0)
        return Heard(latencies=[seconds] * waves, seconds=seconds * waves)

    monkeypatch.setattr(history.Asked, "send", send)
    monkeypatch.setattr(history, "servers", lambda *_: {"mooring": FakeServer(), "unkept": FakeServer()})
    found = history.answers(history.parse([*"answers --model demo --pairs 4 --starts 2 --block-seconds 5".split()]))
    assert [target["met"] for target in found["targets"]] == [True, True]
    for load in ("alone", "together"):
        assert found["added_ms"][load]["p99"]["added"] == pytest.approx(0.5)
        measured = [(arm, seed) for of, arm, _, seed in asked if of == load and seed[0] == 3]
        assert [arm for arm, seed in measured if seed[2] == 0] == ["default", "unkept", "unkept", "default"] * 2
        assert [arm for arm, seed in measured if seed[2] == 1] == ["unkept", "default", "default", "unkept"] * 2
        assert [seed[1] for _, seed in measured if seed[2] == 0] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert (found["waves"][load], found["turns"][load]) == (60, 2)
    assert {block["start"] for block in found["blocks"]} == {0, 1}
    assert {block["request_ms"]["p99"] for block in found["blocks"]} == {100.0, 100.5}


@pytest.mark.parametrize("starts", [1, 3])
def test_the_interval_of_a_pooled_percentile_holds_the_truth(starts: int) -> None:
    """Rounds share what the machine does, answers have a long tail, and one place is 2 ms slower."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(100):
        pairs = []
        for number in range(12):
            machine = rng.normal(0, 3)
            one, other = (50 + machine + rng.exponential(4, 100) for _ in range(2))
            pairs.append((number % starts, (one + 2).tolist(), other.tolist()))
        found = history.added(pairs, 99, resamples=200)
        held += found["low"] <= 2 <= found["high"]
    assert held >= 90


def test_one_round_has_no_interval() -> None:
    found = history.added([(0, [2.0, 2.0], [1.0, 1.0])], 50)
    assert found == {"added": 1.0, "low": None, "high": None, "rounds": 1}


@pytest.mark.parametrize(
    ("interval", "itself", "met"),
    [
        ((-0.5, 0.9), (-1, 1), True),
        ((1.1, 3.0), (-1, 1), False),
        ((-0.5, 1.5), (-1, 1), None),
        ((-0.5, 0.9), (0.1, 2), None),
        ((None, None), (-1, 1), None),
    ],
)
def test_what_is_added_is_met_by_the_whole_interval(interval: Any, itself: Any, met: bool | None) -> None:
    found = {"added": 0.2, "low": interval[0], "high": interval[1], "null": {"low": itself[0], "high": itself[1]}}
    assert history.added_target("x", found)["met"] is met
