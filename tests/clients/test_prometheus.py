"""Prometheus as a client: a real one scrapes the server, and every dashboard and alert finds what it asks for."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import dashboards
import panels
from clients.talk import PIRATE
from deploy.prometheus import DEPLOY, Prometheus, questions
from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]

NO_METRICS = {"mooring_axes", "mooring_hooks", "mooring_server", "mooring_profile", "mooring_url"}
"""Words of deploy/ that look like metrics: import packages, a member of a request, a variable of a dashboard."""
METRIC = re.compile(r"(?<![\w:])(?:mooring_|vllm:)[a-z0-9_]*[a-z0-9]\b")
PANELS = [pytest.param(panel, id=panel["title"]) for make in dashboards.ALL.values() for panel in make()["panels"]
          if "targets" in panel]  # fmt: skip


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes the server, which has answered capped and uncapped, first and later turns, between its scrapes."""
    with Prometheus([f"127.0.0.1:{server.port}"], tmp_path_factory.mktemp("prometheus")) as running:
        ask_all(server)
        running.wait_for('count_over_time(mooring_turns_total{profile="off"}[1m]) >= 2')
        ask_all(server)
        running.wait_for('rate(mooring_turns_total{profile="off"}[1m]) > 0')
        yield running


def ask_all(server: Server) -> None:
    later = [*PIRATE, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Who are you?"}]
    for profile in ("strong", "off"):
        for messages in (PIRATE, later):
            body = {"model": f"demo:{profile}", "messages": messages, "max_tokens": 16}
            httpx.post(f"{server.base}/v1/chat/completions", json=body, timeout=60).raise_for_status()


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_of_a_panel_finds_something(panel: dict[str, Any], prometheus: Prometheus) -> None:
    for _, expr in questions({"panels": [panel]}):
        assert prometheus.query(expr) or panels.EMPTY in panel["description"], expr


def test_every_rule_is_evaluated_and_a_sound_server_raises_no_alarm_about_itself(prometheus: Prometheus) -> None:
    prometheus.wait_for("job_model_profile_arm:mooring_drift:mean_rate5m")
    rules = prometheus.rules()
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    about_talk = {"MooringDriftHigh", "MooringDriftHighAtDepth", "MooringCapSaturated"}
    raised = {rule["name"] for rule in rules if rule.get("alerts")}
    assert raised <= about_talk, json.dumps([rule for rule in rules if rule["name"] in raised], indent=1)


def test_every_metric_named_in_deploy_is_on_the_page(server: Server) -> None:
    page = httpx.get(f"{server.base}/metrics").raise_for_status().text
    there = set(re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE))
    there |= {f"{name}_{end}" for name in there for end in ("bucket", "count")}
    files = [path for path in DEPLOY.rglob("*") if path.suffix in (".yml", ".yaml", ".json", ".md")]
    named = {name for path in files for name in METRIC.findall(path.read_text())}
    assert named - NO_METRICS - there == set()
    assert len(named) > 20
