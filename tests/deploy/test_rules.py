"""Recording rules and alerts: what promtool says, a test of each both ways, a runbook for each, and a real server."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.conftest import Fed
from deploy.prometheus import DEPLOY
from deploy.stand_in import CAPPED_DRIFT, LIFTED, MEAN_LIFT, OFF_DRIFT, OFF_LONG_DRIFT, TOKENS

RULES = [rule for group in yaml.safe_load((DEPLOY / "prometheus/rules/mooring.yml").read_text())["groups"]
         for rule in group["rules"]]  # fmt: skip
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = [rule["record"] for rule in RULES if "record" in rule]
UNIT_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
CASES = [case for path in UNIT_TESTS for case in yaml.safe_load(path.read_text())["tests"]]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(DEPLOY / "prometheus" / "rules").glob("*.yml"))


def test_the_alertmanager_that_is_commented_out_can_be_taken(tmp_path: Path) -> None:
    told = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "rules").symlink_to(DEPLOY / "prometheus" / "rules")
    uncommented = re.sub(r"^# (alerting:|  .*)$", r"\1", told, flags=re.MULTILINE)
    (tmp_path / "prometheus.yml").write_text(uncommented)
    assert yaml.safe_load(uncommented)["alerting"]["alertmanagers"]
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_rules_do_what_their_unit_tests_say() -> None:
    promtool("test", "rules", *UNIT_TESTS)


@pytest.mark.parametrize("name", [rule["alert"] for rule in ALERTS])
def test_every_alert_is_tested_firing_and_silent(name: str) -> None:
    tested = [bool(test["exp_alerts"]) for case in CASES for test in case.get("alert_rule_test", ())
              if test["alertname"] == name]  # fmt: skip
    assert {*tested} == {True, False}


@pytest.mark.parametrize("name", RECORDS)
def test_every_recording_rule_is_tested_with_and_without_traffic(name: str) -> None:
    tested = [case["name"] for case in CASES for test in case.get("promql_expr_test", ()) if test["expr"] == name]
    assert len({*tested}) >= 2
    assert re.fullmatch(r"[a-z_]+:mooring_[a-z_]+:[a-z0-9_]+", name)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_is_wrong_and_where_help_is(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert {*notes} == {"summary", "description", "runbook"}
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert notes["runbook"] == f"deploy/runbooks.md#{alert['alert'].lower()}"


def test_the_runbooks_are_those_of_the_alerts() -> None:
    headings = re.findall(r"^## (\w+)$", (DEPLOY / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in ALERTS)


def test_a_real_prometheus_evaluates_every_rule(fed: Fed) -> None:
    fed.prometheus.wait_for("job_model_profile_arm:mooring_drift:mean_rate5m")
    rules = {rule["name"]: rule for rule in fed.prometheus.rules()}
    assert sorted(rules) == sorted([*RECORDS, *(rule["alert"] for rule in ALERTS)])
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}


def test_recorded_means_are_what_was_fed(fed: Fed) -> None:
    fed.prometheus.wait_for("job:mooring_readings_lost:ratio_rate5m")  # the last one of its group

    def of(name: str, label: str = "profile") -> dict[str, float]:
        return dict(fed.prometheus.values(name, label))

    off = (OFF_DRIFT + OFF_LONG_DRIFT) / 2
    assert of("job_model_profile_arm:mooring_drift:mean_rate5m") == about({"strong": CAPPED_DRIFT, "off": off})
    by_depth = of('job_model_profile_arm_depth:mooring_drift:mean_rate5m{profile="off"}', "depth")
    assert by_depth == about({"1": OFF_DRIFT, "17+": OFF_LONG_DRIFT})
    lifted = of("job_model_profile_arm:mooring_tokens_lifted:ratio_rate5m")
    assert lifted == about({"strong": LIFTED / TOKENS, "off": 0})
    assert of("job_model_profile_arm:mooring_lift:mean_rate5m") == about({"strong": MEAN_LIFT, "off": 0})


def about(values: dict[str, float]) -> Any:
    return pytest.approx(values, abs=1e-6)
