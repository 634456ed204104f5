"""What Prometheus gets to see of known records, from one process and from several."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from mooring_axes.artifact import Axis
from mooring_axes.profiles import Profile, off_profile, resolve
from mooring_hooks.table import ProfileEntry, Settings, SlotTable
from mooring_server import metrics
from mooring_server.metrics import TurnMetrics, depth, profile_labels, projection_buckets, tell_profiles
from mooring_server.record import Record

Sample = Callable[..., float]
SCRIPT = """
import json, sys
from mooring_server.metrics import TurnMetrics, tell_profiles
from test_metrics import SETTINGS, record, table

take = TurnMetrics(table()).take
tell_profiles(SETTINGS, table(), "m")
for given in json.loads(sys.argv[1]):
    take(record(**given))
"""
COLLECT = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def table(default: float = 10.0, role: float = 0.0, means: bool = True) -> SlotTable:
    directions = np.eye(3, 8, dtype=np.float32)
    known = {"default_mean": np.full(3, default, np.float32), "role_mean": np.full(3, role, np.float32)}
    axis = Axis(directions, np.ones(3, np.float32), model="m", monitored_layer=0, **(known if means else {}))
    strong = Profile.model_validate({"name": "strong", "layers": [1, 2], "floor": [4.0, 5.25]})
    pushed = Profile.model_validate({"name": "pushed", "layers": [1], "shift": 1.0})
    return SlotTable.build([off_profile(axis), resolve(strong, axis), resolve(pushed, axis)])


SETTINGS = Settings(
    table="", default="strong", slots=16,
    profiles=(ProfileEntry("off", "", "all", True), ProfileEntry("strong", "s", "all", True),
              ProfileEntry("pushed", "p", "response", False)),
)  # fmt: skip


def record(**given: Any) -> Record:
    known: dict[str, Any] = {
        "at": 0.0, "response": "chatcmpl-1", "choice": 0, "route": "chat", "model": "m", "profile": "strong",
        "arm": "none", "session": "s", "identity": "client", "turn": 1, "node": "", "parent": "", "tokens": 5,
        "measured_tokens": 4, "lifted_tokens": 1, "projection": 2.5, "drift": 0.75, "mean_lift": 0.5, "complete": True,
        "finished": True, "layers": {},
    }  # fmt: skip
    return Record(**(known | given))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def take(registry: CollectorRegistry) -> Callable[[Record], None]:
    return TurnMetrics(table(), registry).take


@pytest.fixture
def grown(request: pytest.FixtureRequest) -> Sample:
    """By how much a sample has grown since the test began; each test has an arm of its own."""

    def value(name: str, **labels: str) -> float:
        known = {"model_name": "m", "profile": "strong", "arm": request.node.name} | labels
        return REGISTRY.get_sample_value(f"mooring_{name}", known) or 0.0

    return value


@pytest.fixture
def arm(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def test_an_answers_numbers_are_all_there(take: Any, registry: CollectorRegistry, grown: Sample, arm: str) -> None:
    take(record(arm=arm))
    take(record(arm=arm, turn=4, drift=-0.25, lifted_tokens=4, mean_lift=2.0, projection=-3.0))
    assert grown("turns_total") == 2 and grown("sessions_started_total") == 1
    assert grown("tokens_total", state="lifted") == 5 and grown("tokens_total", state="untouched") == 3
    assert grown("lift_total") == 4 * 0.5 + 4 * 2.0
    assert (grown("drift_positive_total", depth="1"), grown("drift_negative_total", depth="1")) == (0.75, 0)
    assert (grown("drift_positive_total", depth="3-4"), grown("drift_negative_total", depth="3-4")) == (0, 0.25)
    assert grown("drift_count", depth="1") == grown("drift_count", depth="3-4") == 1
    assert grown("drift_bucket", depth="1", le="0.7") == 0 and grown("drift_bucket", depth="1", le="0.8") == 1
    assert grown("lifted_share_sum") == 0.25 + 1.0
    shown = {"model_name": "m", "profile": "strong", "arm": arm}
    assert registry.get_sample_value("mooring_projection_count", shown) == 2
    assert registry.get_sample_value("mooring_projection_bucket", shown | {"le": "0.0"}) == 1


def test_the_mean_drift_is_exact_from_its_two_sums(take: Any, grown: Sample, arm: str) -> None:
    drifts = np.random.default_rng(0).normal(0.2, 1, 500).tolist()
    for drift in drifts:
        take(record(arm=arm, drift=drift))
    total = grown("drift_positive_total", depth="1") - grown("drift_negative_total", depth="1")
    assert total / grown("drift_count", depth="1") == pytest.approx(sum(drifts) / 500, abs=1e-12)


def test_a_signed_histogram_gives_no_sum_that_somebody_could_misread(take: Any, registry: CollectorRegistry) -> None:
    take(record())
    for shown in (generate_latest(registry), generate_latest(REGISTRY)):
        assert b"mooring_drift_sum" not in shown and b"mooring_projection_sum" not in shown


def test_what_has_no_reading_is_only_a_turn(take: Any, grown: Sample, arm: str) -> None:
    take(record(arm=arm, turn=None, projection=None, drift=None, mean_lift=None, measured_tokens=0, lifted_tokens=0))
    take(record(arm=arm, turn=None, drift=None))
    assert grown("turns_total") == 2 and grown("sessions_started_total") == 0
    assert grown("lifted_share_count") == 1 and grown("drift_count", depth="none") == 0


def test_several_choices_start_one_session(take: Any, grown: Sample, arm: str) -> None:
    for choice in range(3):
        take(record(arm=arm, choice=choice))
    assert grown("turns_total") == 3 and grown("sessions_started_total") == 1


def test_a_profile_that_pushes_down_does_not_make_a_counter_fall(take: Any, grown: Sample, arm: str) -> None:
    take(record(arm=arm, mean_lift=-2.0))
    take(record(arm=arm, mean_lift=1.0))
    assert grown("lift_total") == 4.0 and grown("turns_total") == 2


@pytest.mark.parametrize(
    ("turns", "label"),
    [
        ([1], "1"),
        ([2], "2"),
        ([3, 4], "3-4"),
        ([5, 8], "5-8"),
        ([9, 16], "9-16"),
        ([17, 10**6], "17+"),
        ([None], "none"),
    ],
)
def test_depth_has_seven_labels(turns: list[int | None], label: str) -> None:
    assert [depth(turn) for turn in turns] == [label] * len(turns)


@pytest.mark.parametrize(("default", "role"), [(10, 0), (-3, -3.5), (1e-3, 0), (5000.25, 5000)])
def test_projections_have_buckets_around_both_means(default: float, role: float) -> None:
    bounds = projection_buckets(table(default, role))
    assert list(bounds) == sorted(set(bounds)) and bounds[0] < role and bounds[-1] > default
    assert sum(role <= bound <= default for bound in bounds) >= 8


def test_projections_have_buckets_where_the_axis_has_no_means() -> None:
    bounds = projection_buckets(table(means=False))
    assert list(bounds) == sorted(set(bounds)) and bounds[0] < -1000 and bounds[-1] > 1000 and 0.0 in bounds


def test_every_profile_is_told_in_numbers() -> None:
    assert profile_labels(SETTINGS, table(), 0)["floors"] == "" == profile_labels(SETTINGS, table(), 0)["layers"]
    assert profile_labels(SETTINGS, table(), 1) == {
        "profile": "strong", "axis": table().axis_facts[0].digest[:12], "layers": "1,2", "floors": "4,5.25",
        "positions": "all", "default": "true",
    }  # fmt: skip
    assert profile_labels(SETTINGS, table(), 2)["floors"] == "none"
    tell_profiles(SETTINGS, table(), "info")
    assert REGISTRY.get_sample_value("mooring_selftest_ok", {"model_name": "info"}) == 1
    told = {**profile_labels(SETTINGS, table(), 1), "model_name": "info"}
    assert REGISTRY.get_sample_value("mooring_profile_info", told) == 1


def test_no_label_holds_what_a_client_wrote(take: Any, registry: CollectorRegistry) -> None:
    take(record(session="client-secret", response="chatcmpl-secret", node="secret", parent="secret"))
    assert b"secret" not in generate_latest(registry) + generate_latest(REGISTRY)


# --- several API servers -------------------------------------------------------------------------


def run(script: str, folder: Path, *arguments: str) -> str:
    paths = [*sys.path, str(Path(__file__).parent)]
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, float]]:
    """All samples after two processes have counted."""
    folder = tmp_path_factory.mktemp("several")
    run(SCRIPT, folder, json.dumps([{}, {"turn": 2, "drift": -0.5}]))
    run(SCRIPT, folder, json.dumps([{"drift": 1.5}, {"profile": "off", "lifted_tokens": 0}]))
    lines = [line for line in run(COLLECT, folder).splitlines() if line.startswith("mooring_")]
    yield {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def sample(collected: dict[str, float], name: str, *parts: str) -> float:
    found = [v for k, v in collected.items() if k.partition("{")[0] == name and all(part in k for part in parts)]
    assert found, f"there is no {name} with {parts}"
    return math.fsum(found)


def test_counters_of_several_processes_add_up(collected: dict[str, float]) -> None:
    assert sample(collected, "mooring_turns_total", 'profile="strong"') == 3
    assert sample(collected, "mooring_turns_total") == 4
    assert sample(collected, "mooring_drift_positive_total", 'profile="strong"', 'depth="1"') == 0.75 + 1.5
    assert sample(collected, "mooring_drift_negative_total", 'profile="strong"', 'depth="2"') == 0.5
    assert sample(collected, "mooring_drift_count", 'profile="strong"') == 3
    assert sample(collected, "mooring_projection_count", 'profile="strong"') == 3
    assert sample(collected, "mooring_projection_bucket", 'profile="off"', 'le="+Inf"') == 1


def test_gauges_of_several_processes_are_one_and_carry_no_process_id(collected: dict[str, float]) -> None:
    assert sample(collected, "mooring_selftest_ok") == 1
    assert sample(collected, "mooring_profile_info") == len(SETTINGS.profiles)
    assert not [name for name in collected if "pid=" in name]


def test_every_name_is_defined_in_one_file() -> None:
    found = [p.name for p in Path(metrics.__file__).parent.glob("*.py") if "prometheus_client" in p.read_text()]
    assert found == ["metrics.py"]
