"""The README's tables are made of the committed results, and of nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tables


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the committed ones."""
    return Path(shutil.copytree(tables.RESULTS, tmp_path / "results"))


def change(results: Path, name: str, *path: str, value: Any) -> None:
    file = results / f"{name}.json"
    document = part = json.loads(file.read_text())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    file.write_text(json.dumps(document))


def test_every_table_is_what_the_committed_results_say() -> None:
    text = tables.README.read_text()
    assert tables.rendered(text) == text
    for name in tables.TABLES:
        assert f"<!-- {name} -->\n| " in text


def test_another_result_makes_another_table(results: Path) -> None:
    text = tables.README.read_text()
    assert tables.rendered(text, results) == text
    ratio = "results", "streamed", "against_off", "on", "ratio", "tokens_per_s"
    change(results, "readings-demo", *ratio, "low", value=0.1234)
    assert "(0.123 to" in tables.rendered(text, results)


@pytest.mark.parametrize(("path", "value"), [(["partial"], True), (["where", "commit"], "0123-dirty")])
def test_a_broken_off_run_makes_no_table(results: Path, path: list[str], value: Any) -> None:
    change(results, "readings-demo", *path, value=value)
    with pytest.raises(ValueError, match="readings-demo"):
        tables.rendered(tables.README.read_text(), results)


def test_the_text_tells_how_much_was_asked() -> None:
    sets = tables.result(tables.RESULTS, "quality-demo")["sets"]
    sizes = [sets[name]["off"]["prompts"] for name in ("jailbreaks", "capability")]
    assert f"({sizes[0]} persona jailbreaks, {sizes[1]} capability items;" in tables.README.read_text()


def test_the_text_tells_how_long_a_token_takes() -> None:
    alone = [tables.result(tables.RESULTS, f"cost-{model}")["results"]["1"]["default"] for model in tables.MODELS]
    demo, shape = (1000 / of["metrics"]["tokens_per_s"] for of in alone)
    text = tables.README.read_text()
    assert f"the demo takes {demo:.1f} ms a token" in text and f"a monitored one) {shape:.0f} ms." in text


def test_a_ratio_turns_with_its_interval() -> None:
    found = tables.turned({"median": 1.25, "low": 0.8, "high": 2.0})
    assert found == pytest.approx({"median": 0.8, "low": 0.5, "high": 1.25})


def test_the_null_of_what_capping_costs_holds_one() -> None:
    for model in tables.MODELS:
        for rung in tables.result(tables.RESULTS, f"cost-{model}")["results"].values():
            null = rung["default"]["ratios"]["tokens_per_s"]
            assert null["low"] <= 1 <= null["high"]
