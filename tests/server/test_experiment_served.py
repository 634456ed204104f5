"""An experiment on a real server: who gets which arm, where it is told, and what a restart with new weights does."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from mooring_server.experiment import Experiment
from servers import Server

pytestmark = pytest.mark.engine

SESSIONS = [f"user-{n}" for n in range(24)]
PROFILES = {"trial/capped": "strong", "trial/uncapped": "off"}


def written(folder: Path, capped: float, uncapped: float) -> Path:
    arms = {"capped": {"profile": "strong", "weight": capped}, "uncapped": {"profile": "off", "weight": uncapped}}
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump({"name": "trial", "salt": "s", "arms": arms, "default": "uncapped"}))
    return file


class Running(NamedTuple):
    client: httpx.Client
    experiment: Experiment
    log: str

    def ask(self, session: str | None, **more: Any) -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 4}
        named = {} if session is None else {"session_id": session}
        return self.client.post("/v1/chat/completions", json=body | named | more).raise_for_status()


def start(folder: Path, history: Path, capped: float, uncapped: float) -> Iterator[Running]:
    file = written(folder, capped, uncapped)
    arguments = ["demo", "--history", str(history), "--experiment", str(file), "--enforce-eager"]
    with Server(arguments, folder / "log") as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.base, timeout=120) as client:
            yield Running(client, Experiment.load(file), server.log)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment") / "history.sqlite"


@pytest.fixture(scope="module")
def running(kept: Path) -> Iterator[Running]:
    yield from start(kept.parent, kept, 5, 5)


@pytest.fixture(scope="module")
def replies(running: Running) -> dict[str, httpx.Response]:
    return {session: running.ask(session) for session in SESSIONS}


def arm(reply: httpx.Response) -> str | None:
    told: str | None = reply.json()["mooring"].get("arm")
    return told


def test_every_session_runs_under_its_arm(running: Running, replies: dict[str, httpx.Response]) -> None:
    assert {s: arm(reply) for s, reply in replies.items()} == {s: running.experiment.arm_by_hash(s) for s in SESSIONS}
    for reply in replies.values():
        assert reply.json()["mooring"]["profile"] == PROFILES[str(arm(reply))] == reply.headers["x-mooring-profile"]
    assert "experiment trial: of the sessions that clients name, 50 % trial/capped, 50 % trial/uncapped" in running.log


def test_any_way_to_name_a_session_deals_it_alike(running: Running, replies: dict[str, httpx.Response]) -> None:
    for session in SESSIONS[:4]:
        wanted = arm(replies[session])
        assert arm(running.ask(None, vllm_xargs={"session_id": session})) == wanted
        assert arm(running.ask(None, metadata={"session_id": session})) == wanted
        named = OpenAI(base_url=f"{running.client.base_url}/v1", api_key="none", max_retries=0)
        said = named.chat.completions.with_raw_response.create(
            model="demo", messages=[{"role": "user", "content": "Hi."}], max_tokens=4,
            extra_headers={"X-Session-ID": session},
        )  # fmt: skip
        assert said.headers["x-mooring-profile"] == PROFILES[str(wanted)]
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 4}
        messages = running.client.post("/v1/messages", json=body, headers={"X-Session-ID": session})
        assert messages.headers["x-mooring-profile"] == PROFILES[str(wanted)]


def test_an_explicit_choice_wins_and_is_of_no_arm(running: Running, replies: dict[str, httpx.Response]) -> None:
    for session in SESSIONS[:4]:
        for asked in ({"vllm_xargs": {"mooring_profile": "gentle"}}, {"model": "demo:gentle"}):
            reply = running.ask(session, **asked)
            assert reply.headers["x-mooring-profile"] == "gentle" and arm(reply) is None


def test_without_a_session_the_default_arms_profile_is_given_and_counts_for_none(running: Running) -> None:
    reply = running.ask(None)
    assert reply.headers["x-mooring-profile"] == "off" and arm(reply) is None


def test_metrics_and_history_tell_the_arm(running: Running, replies: dict[str, httpx.Response]) -> None:
    turns: Counter[str] = Counter()
    for family in text_string_to_metric_families(running.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "mooring_sessions_started_total":
                turns[sample.labels["arm"]] += int(sample.value)
    assert turns["trial/capped"] >= 1 and turns["trial/uncapped"] >= 1 and turns["none"] >= 9
    until = time.monotonic() + 10
    for session, reply in replies.items():
        while not (turn := turn_of(running, session, reply.json()["id"])):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert turn["arm"] == arm(reply)


def turn_of(running: Running, session: str, response: str) -> dict[str, Any] | None:
    reply = running.client.get(f"/v1/mooring/sessions/{session}")
    turns = reply.json()["turns"] if reply.status_code == 200 else []
    return next((turn for turn in turns if turn["response"] == response), None)


def test_a_restart_with_other_weights_leaves_begun_sessions_where_they_are(
    running: Running, replies: dict[str, httpx.Response], tmp_path: Path, kept: Path
) -> None:
    """A second server on the same history, as in a rolling update."""
    for after in start(tmp_path, kept, 9, 1):
        begun = {session: arm(after.ask(session)) for session in SESSIONS}
        assert begun == {session: arm(reply) for session, reply in replies.items()}
        moved = [s for s in SESSIONS if after.experiment.arm_by_hash(s) != begun[s]]
        assert moved  # with these weights some would have gone elsewhere
        new = [f"new-{n}" for n in range(12)]
        assert {s: arm(after.ask(s)) for s in new} == {s: after.experiment.arm_by_hash(s) for s in new}
        told = after.client.get("/v1/mooring/experiment").raise_for_status().json()
        assert [one["share"] for one in told["arms"]] == [0.9, 0.1]
        assert sum(one["sessions"] for one in told["arms"]) == len(SESSIONS)
        assert sum(one["expected"] for one in told["arms"]) == pytest.approx(len(SESSIONS))
        assert told["mismatch"] is False and 0 < told["p"] <= 1

