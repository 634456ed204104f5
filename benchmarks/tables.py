"""The README's tables, made of the committed results and of nothing else.

    python benchmarks/tables.py     writes them anew

A table stands in README.md between `<!-- NAME -->` and `<!-- /NAME -->`; TABLES makes it. `make test` fails where one
that stands there is not what the results say.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mooring_bench.record import ROOT

README: Final = ROOT / "README.md"
RESULTS: Final = ROOT / "benchmarks" / "results"
_TABLE: Final = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def rendered(text: str, results: Path = RESULTS) -> str:
    """The text with its tables made anew."""
    return _TABLE.sub(lambda found: f"{found[1]}{_lines(TABLES[found[2]](results))}{found[3]}", text)


def _lines(rows: Iterator[Sequence[str]]) -> str:
    head = next(rows)
    return "".join(f"| {' | '.join(row)} |\n" if row else f"|{'---|' * len(head)}\n" for row in (head, (), *rows))


def result(results: Path, name: str) -> Any:
    """A result that was measured to the end, of a commit; ValueError of any other."""
    document = json.loads((results / f"{name}.json").read_text())
    for part in (document, *(part for part in document.values() if isinstance(part, Mapping))):
        if part.get("partial") or "dirty" in part.get("where", {}).get("commit", ""):
            raise ValueError(f"{name}.json is of a run that was broken off, or of no commit: {part.get('where')}")
    return document


def interval(measure: Mapping[str, Any], digits: int, unit: str = "") -> str:
    value = next(measure[key] for key in ("value", "median", "added") if key in measure)
    found, low, high = (f"{number:.{digits}f}" for number in (value, measure["low"], measure["high"]))
    return f"{found}{unit} ({low} to {high})"


# --- one function a table ------------------------------------------------------------------------


def quality(results: Path) -> Iterator[Sequence[str]]:
    sets = result(results, "quality-demo")["sets"]
    yield "profile", "harm", "word-for-word refusals", "capability"
    for profile in ("off", "gentle", "strong", "response", "random-1"):
        jailbreaks, capability = (sets[name][profile]["measures"] for name in ("jailbreaks", "capability"))
        told = jailbreaks["harm"], jailbreaks["exact_refusal"], capability["correct"]
        yield profile, *(interval(measure, 3) for measure in told)


def categories(results: Path) -> Iterator[Sequence[str]]:
    found = result(results, "quality-demo")["categories"]
    yield "by category", "measure", "off", "strong"
    for name, measure in (("jailbreaks", "harm"), ("jailbreaks_system", "harm"), ("capability", "correct")):
        for category, arms in found[name].items():
            told = (interval(arms[arm][measure], 3) for arm in ("off", "strong"))
            yield f"{name}: {category}", measure, *told


MODELS: Final = {"demo": "demo", "qwen3-0.6b-shape": "Qwen3-0.6B shape"}
"""Of a result's file -> how it is called."""


def capping(results: Path) -> Iterator[Sequence[str]]:
    found = {shown: result(results, f"cost-{model}")["results"] for model, shown in MODELS.items()}
    columns = [(shown, rung) for shown, rungs in found.items() for rung in rungs]
    yield "tokens/s of the default profile over", *(f"{shown}, {rung} at a time" for shown, rung in columns)
    told = {
        "off": "`off` on the same server", "measuring": "Mooring with nothing capped",
        "stock": "stock vLLM", "default": "itself",
    }  # fmt: skip
    for arm, of in told.items():
        ratios = (found[shown][rung][arm]["ratios"]["tokens_per_s"] for shown, rung in columns)
        yield of, *(interval(turned(ratio), 3) for ratio in ratios)


def turned(ratio: Mapping[str, float]) -> dict[str, float]:
    """b / a of an a / b: what is estimated on the log scale turns with its interval."""
    return {"median": 1 / ratio["median"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}


def overhead(results: Path) -> Iterator[Sequence[str]]:
    runs = {shown: result(results, f"overhead-{model}") for model, shown in MODELS.items()}
    columns = [(shown, workload) for shown, run in runs.items() for workload in run["results"]]
    found = [runs[shown]["results"][workload] for shown, workload in columns]
    (together,) = {run["settings"]["concurrency"] for run in runs.values()}
    yield f"over stock vLLM's, {together} at a time", *(f"{shown}, {workload}" for shown, workload in columns)
    told = (
        ("tokens/s, the default profile", "default/stock", "tokens_per_s"),
        ("tokens/s, `off`", "off/stock", "tokens_per_s"),
        ("inter-token latency, the default profile", "default/stock", "itl_ms"),
        ("CPU seconds a token, the default profile", "default/stock", "cpu_s_per_token"),
    )
    for said, pair, number in told:
        measures = (of["ratios"][pair][number] for of in found)
        yield said, *("-" if measure["median"] is None else interval(measure, 3) for measure in measures)
    yield "tokens/s, stock vLLM over itself", *(interval(of["null"]["tokens_per_s"], 3) for of in found)
    yield "starts of every server", *(str(runs[shown]["settings"]["starts"]) for shown, _ in columns)


def peers(results: Path) -> Iterator[Sequence[str]]:
    found = {shown: result(results, f"peers-{model}") for model, shown in MODELS.items()}
    told = {
        "vllm": "stock vLLM, which caps nothing", "vllm-hooks": "vLLM without compilation, hooks per request",
        "transformers": "transformers, hooks", "mooring": "Mooring over itself",
    }  # fmt: skip
    columns = (f"{shown}, {of['settings']['requests']} at a time" for shown, of in found.items())
    yield "tokens/s over Mooring's, offline", *columns
    for peer, said in told.items():
        yield said, *(interval(of["ratios"][peer], 3) for of in found.values())


def cost(results: Path) -> Iterator[Sequence[str]]:
    mixed = {
        "16 profiles with 15 axes": ("overhead-demo-sixteen", "sixteen"),
        "128 profiles with 127 axes, asked for in turn": ("overhead-demo-slots", "hundred"),
    }
    streamed = result(results, "readings-demo")["results"]["streamed"]
    history = result(results, "history")
    alone, fed = history["answers"]["added_ms"]["alone"]["p99"], history["feed"]["fed"]

    def both(of: Mapping[str, Any], null: Mapping[str, Any], digits: int, unit: str = "") -> tuple[str, str]:
        return interval(of, digits, unit), interval(null, digits, unit)

    yield "on the demo, two cores, 95 % intervals", "measured", "the same against itself"
    for said, (name, arm) in mixed.items():
        run = result(results, name)
        decode, together = run["results"]["decode"], run["settings"]["concurrency"]
        ratio, null = decode["ratios"][f"{arm}/default"], decode["null"]
        told = both(ratio["tokens_per_s"], null["tokens_per_s"], 3)
        yield f"capping: tokens/s of {said}, over one profile; {together} at a time", *told
    measured = streamed["against_off"]["on"]
    yield (
        "readings, no history: tokens/s with them over without",
        *both(measured["ratio"]["tokens_per_s"], streamed["null"]["tokens_per_s"], 3),
    )
    late = measured["added"]["p99"]
    yield "readings, no history: the last frame comes later, p99", *both(late, late["null"], 1, " ms")
    of = "" if history["answers"]["model"] == "demo" else ", of a tiny model"
    yield f"history: an answer takes longer, p99, one at a time{of}", *both(alone, alone["null"], 2, " ms")
    yield (
        "history at 5,000 turns/s: turns lost, event loop late at p99",
        f"{fed['sqlite']['lost']} of {fed['sqlite']['turns']}, {fed['sqlite']['late_ms']['p99']:.1f} ms",
        f"{fed['nothing']['late_ms']['p99']:.1f} ms",
    )


TABLES: Final[dict[str, Callable[[Path], Iterator[Sequence[str]]]]] = {
    "quality": quality, "categories": categories, "capping": capping, "overhead": overhead, "peers": peers,
    "cost": cost,
}  # fmt: skip


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
