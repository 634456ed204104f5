"""The dashboards: made by their source, in vLLM's conventions, of Grafana's types, and answered by Prometheus."""

import json
import subprocess
import sys
from typing import Any

import pytest

import dashboards
import generate
import panels
from deploy.conftest import Fed
from deploy.prometheus import DEPLOY, Prometheus, questions, replaced
from deploy.stand_in import CAPPED_DRIFT, LIFTED, OFF_DRIFT, OFF_LONG_DRIFT, TOKENS

BOARDS = {name: json.loads((DEPLOY / "grafana" / "dashboards" / f"{name}.json").read_text()) for name in dashboards.ALL}
PANELS = [pytest.param(panel, id=f"{name}: {panel['title']}") for name, board in BOARDS.items()
          for panel in board["panels"] if panel["type"] not in ("row", "text")]  # fmt: skip


def test_the_generated_files_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, DEPLOY / "generate.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_stale_file_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stale = DEPLOY / "grafana" / "dashboards" / "mooring-drift.json"
    monkeypatch.setattr(generate, "files", lambda: iter([(stale, "{}")]))
    assert generate.main(["--check"]) == 1
    assert "deploy/grafana/dashboards/mooring-drift.json" in capsys.readouterr().out


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_keeps_vllms_conventions(name: str) -> None:
    board = BOARDS[name]
    assert (board["uid"], board["schemaVersion"], board["id"]) == (name, 39, None)
    assert board["tags"] == ["vllm", "mooring"]
    assert board["links"][0]["tags"] == ["vllm"] and board["links"][0]["includeVars"]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert {"datasource", "job", "model_name", "instance"} <= {*variables}
    assert all(variable.get("datasource", panels.DATASOURCE) == panels.DATASOURCE for variable in variables.values())


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_of_which_metric(panel: dict[str, Any]) -> None:
    asked = [target["expr"] for target in panel["targets"]]
    about, metric = panel["description"].rsplit("\n\nMetric: ", 1)
    assert about.endswith(".")
    assert metric == ", ".join(f"`{name}`" for name in panels.metrics_of(asked))
    assert panel["datasource"] == panels.DATASOURCE
    assert all("$__rate_interval" in expr for expr in asked if "rate(" in expr)


def test_panels_do_not_overlap() -> None:
    for board in BOARDS.values():
        cells = [(x, y) for panel in board["panels"] for at in [panel["gridPos"]]
                 for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]  # fmt: skip
        assert len(cells) == len({*cells}) and max(x for x, _ in cells) < panels.COLUMNS


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_of_a_panel_finds_something(panel: dict[str, Any], fed: Fed) -> None:
    for _, expr in questions({"panels": [panel]}):
        found = fed.prometheus.query(expr)
        assert found or "Empty until" in panel["description"], expr
        assert all(series["value"][1] != "NaN" for series in found), expr


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_offers_what_there_is(name: str, fed: Fed) -> None:
    offered = {variable["name"]: choices(fed.prometheus, variable) for variable in BOARDS[name]["templating"]["list"]
               if variable["type"] == "query"}  # fmt: skip
    expected = {"job": ["mooring"], "model_name": ["demo"], "instance": sorted([fed.mostly_capped, fed.mostly_off]),
                "profile": ["gentle", "off", "strong"], "arm": ["none"]}  # fmt: skip
    assert offered == {name: expected[name] for name in offered}


def choices(prometheus: Prometheus, variable: dict[str, Any]) -> list[str]:
    asked = replaced(variable["query"]["query"])
    selector, label = asked.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
    return prometheus.label_values(selector, label)


def shown(fed: Fed, board: str, title: str, label: str) -> list[dict[str, float]]:
    """What the lines of a panel show, by label, one mapping per query."""
    return [dict(fed.prometheus.values(expr, label)) for panel, expr in questions(BOARDS[board])
            if panel["title"] == title and panel["type"] == "timeseries"]  # fmt: skip


def test_the_numbers_shown_are_those_that_were_fed(fed: Fed) -> None:
    off = (OFF_DRIFT + OFF_LONG_DRIFT) / 2
    (by_profile,) = shown(fed, "mooring-drift", "Mean drift by profile", "profile")
    assert by_profile == pytest.approx({"strong": CAPPED_DRIFT, "off": off}, abs=1e-6)
    (lifted,) = shown(fed, "mooring-drift", "Tokens lifted", "profile")
    assert lifted == pytest.approx({"strong": LIFTED / TOKENS, "off": 0})
    (by_turn,) = shown(fed, "mooring-drift", "Mean drift by turn", "depth")
    assert by_turn["17+"] == pytest.approx(OFF_LONG_DRIFT)
    _, share = shown(fed, "mooring-health", "Time between tokens", "instance")
    assert share == pytest.approx({fed.mostly_capped: 6 / 8, fed.mostly_off: 1 / 13}, abs=0.05)


def test_a_server_that_nobody_has_asked_breaks_no_query(fed: Fed) -> None:
    for board in BOARDS.values():
        for _, expr in questions(board):
            fed.prometheus.query(expr.replace('job=~".*"', 'job="nobody"'))
