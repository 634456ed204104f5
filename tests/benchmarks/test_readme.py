"""The README's table is made of the committed result, and of nothing else."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def cell(measure: dict[str, Any]) -> str:
    return f"{measure['value']:.3f} ({measure['low']:.3f} to {measure['high']:.3f})"


def test_the_table_of_quality_shows_the_committed_numbers() -> None:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- quality: from (\S+) -->\n(.*?)<!-- /quality -->", text, re.DOTALL)
    assert found is not None
    sets = json.loads((ROOT / found[1]).read_text())["sets"]
    rows = [line.strip("| ").split(" | ") for line in found[2].splitlines()[2:]]
    assert [row[0] for row in rows] == ["off", "gentle", "strong", "response", "random-1"]
    for profile, *cells in rows:
        jailbreaks, capability = (sets[name][profile]["measures"] for name in ("jailbreaks", "capability"))
        assert cells == [cell(jailbreaks["harm"]), cell(jailbreaks["exact_refusal"]), cell(capability["correct"])]
    sizes = [sets[name]["off"]["prompts"] for name in ("jailbreaks", "capability")]
    assert f"({sizes[0]} persona jailbreaks, {sizes[1]} capability items;" in text


def interval(measure: dict[str, Any], digits: int, unit: str = "") -> str:
    value = measure["median"] if "median" in measure else measure["added"]
    found, low, high = (f"{number:.{digits}f}" for number in (value, measure["low"], measure["high"]))
    return f"{found}{unit} ({low} to {high})"


def test_the_table_of_costs_shows_the_committed_numbers() -> None:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- cost: from (\S+), (\S+) and (\S+) -->\n(.*?)<!-- /cost -->", text, re.DOTALL)
    assert found is not None
    readings, history, slots = (json.loads((ROOT / name).read_text()) for name in found.groups()[:3])
    streamed, fed = readings["results"]["streamed"], history["feed"]["fed"]
    alone = history["answers"]["added_ms"]["alone"]["p99"]
    assert not readings["partial"] and "dirty" not in readings["where"]["commit"]
    rows = [line.strip("| ").split(" | ")[1:] for line in found[4].splitlines()[2:]]
    decode = slots["results"]["decode"]
    assert not slots["partial"] and "dirty" not in slots["where"]["commit"]
    assert rows == [
        [interval(decode["ratios"]["hundred/default"]["tokens_per_s"], 3), interval(decode["null"]["tokens_per_s"], 3)],
        [interval(streamed["ratio"]["tokens_per_s"], 3), interval(streamed["null"]["tokens_per_s"], 3)],
        [interval(streamed["added"]["p99"], 1, " ms"), interval(streamed["added"]["p99"]["null"], 1, " ms")],
        [interval(alone, 1, " ms"), interval(alone["null"], 1, " ms")],
        [f"{fed['sqlite']['lost']} of {fed['sqlite']['turns']}, {fed['sqlite']['late_ms']['p99']:.1f} ms",
         f"{fed['nothing']['late_ms']['p99']:.1f} ms"],
    ]  # fmt: skip
