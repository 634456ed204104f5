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
