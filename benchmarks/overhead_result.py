"""From blocks to the result of overhead.py: per arm what was measured, per pair of arms its ratios, the targets.

A block's numbers:
    tokens_per_s       generated tokens, or prompt tokens where answers have one token
    itl_ms             median gap between the tokens of the streamed answers; None where answers have one token
    latency_ms         median time of a request
    cpu_s_per_token    user and system time of all processes of the server. Of vLLM's, `EngineCore` and `Worker` spin
                       while they wait for each other, so a server that is merely slower takes more as well

A block is *disturbed* where others took more than DISTURBED of the machine meanwhile. It counts like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from arms import BASELINE
from mooring_bench.blocks import estimate, null, paired, rounded, starts_of

NUMBERS: Final = ("tokens_per_s", "itl_ms", "latency_ms", "cpu_s_per_token")
COMPARED: Final = (
    ("default", "stock"),
    ("off", "stock"),
    ("again", "stock"),
    ("default", "off"),
    ("measuring", "stock"),
    ("default", "measuring"),
    ("unmeasured", "stock"),
    ("default", "unmeasured"),
    ("sixteen", "stock"),
    ("sixteen", "default"),
    ("hundred", "stock"),
    ("hundred", "default"),
)
DISTURBED: Final = 0.05
FULL_PAIRS: Final = 20
FULL_SECONDS: Final = 30.0

Blocks = Sequence[Mapping[str, Any]]
Result = dict[str, Any]


class Goal(NamedTuple):
    """Of a ratio in tokens per second; GOALS are those of default / stock."""

    median: float
    low: float | None
    """Lower end of the interval; None where none is set."""
    aim: float | None


GOALS: Final = {
    "demo": Goal(0.93, None, None),
    "qwen3-0.6b-shape": Goal(0.98, 0.96, 0.995),
}
GOAL_OF_OTHERS: Final = GOALS["qwen3-0.6b-shape"]
MIXED: Final = "hundred/default"
MIXED_GOAL: Final = Goal(0.98, None, None)


def results(blocks: Blocks, arms: Sequence[str], workloads: Sequence[str]) -> Result:
    """Per workload; keys of `ratios` are "arm/baseline"."""
    return {name: _of_workload([b for b in blocks if b["workload"] == name], arms) for name in workloads}


def _of_workload(blocks: Blocks, arms: Sequence[str]) -> Result:
    pairs = [(above, below) for above, below in COMPARED if above in arms and below in arms]
    return {
        "arms": {arm: _of_arm([b for b in blocks if b["arm"] == arm]) for arm in arms},
        "ratios": {f"{above}/{below}": {n: _ratio(blocks, above, below, n) for n in NUMBERS} for above, below in pairs},
        "null": {n: rounded(estimate(null(blocks, BASELINE, n))) for n in NUMBERS},
    }


def _ratio(blocks: Blocks, above: str, below: str, number: str) -> Result:
    pair = (blocks, above, below, number)
    return rounded(estimate(paired(*pair), starts_of(*pair)))


def _of_arm(blocks: Blocks) -> Result:
    return {"blocks": len(blocks)} | {n: _spread([b[n] for b in blocks if b[n] is not None]) for n in NUMBERS}


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, (0, 20, 50, 80, 100))
    return {k: float(f"{v:.6g}") for k, v in zip(("min", "p20", "p50", "p80", "max"), found, strict=True)}


def disturbed(blocks: Blocks, cores: int) -> int:
    """How many blocks were, see the head of this file."""
    return sum(b["others_cpu_s"] > DISTURBED * cores * b["seconds"] for b in blocks)


def targets(model: str, found: Result, pairs: int, seconds: float) -> list[Result]:
    """Each held against what was measured; `met` is null where it was not measured."""
    goals = {f"default/{BASELINE}": GOALS.get(model, GOAL_OF_OTHERS)}
    goals |= {MIXED: MIXED_GOAL} if any(MIXED in part["ratios"] for part in found.values()) else {}
    return [
        _target(pair, goal, workload, part, pairs, seconds)
        for pair, goal in goals.items()
        for workload, part in found.items()
    ]


def _target(pair: str, goal: Goal, workload: str, part: Result, pairs: int, seconds: float) -> Result:
    ratio = part["ratios"].get(pair, {}).get("tokens_per_s") or rounded(estimate([]))
    counted = len(ratio["pairs"])
    return {
        "workload": workload,
        "what": f"tokens per second, {pair.replace('/', ' / ')}",
        "wanted": goal._asdict(),
        "measured": {key: ratio[key] for key in ("median", "low", "high", "by_start")},
        "met": _met(goal, ratio),
        "aim_met": None if goal.aim is None or ratio["median"] is None else ratio["median"] >= goal.aim,
        "full_size": counted >= FULL_PAIRS and seconds >= FULL_SECONDS,
        "pairs": counted,
        "pairs_planned": pairs,
        "block_seconds": seconds,
    }


def _met(goal: Goal, ratio: Mapping[str, Any]) -> bool | None:
    if ratio["median"] is None or (goal.low is not None and ratio["low"] is None):
        return None
    return bool(ratio["median"] >= goal.median and (goal.low is None or ratio["low"] >= goal.low))


# --- for people ----------------------------------------------------------------------------------

MET: Final = {True: "met", False: "NOT MET", None: "not measured"}
HEADS: Final = {
    "tokens_per_s": "tokens/s",
    "itl_ms": "inter-token ms",
    "latency_ms": "request ms",
    "cpu_s_per_token": "CPU ms/token",
}


def card(result: Result) -> str:
    """The result in Markdown."""
    parts = [list(_head(result))]
    parts += [list(_tables(name, part)) for name, part in result["results"].items()]
    parts.append(list(_targets(result)))
    return "\n\n".join("\n".join(part) for part in parts)


def _head(result: Result) -> Iterator[str]:
    where, settings = result["where"], result["settings"]
    yield f"# Overhead on `{settings['model']}`"
    yield ""
    if result["partial"]:
        yield f"**Partial: {result['stopped']}.**"
    found = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    yield f"{where['processor']}, {where['cores']} cores; {found}; {where['date']}, commit {where['commit']}."
    yield (
        f"{settings['pairs']} pairs of blocks of {settings['block_seconds']:g} s were asked for, at concurrency "
        f"{settings['concurrency']}, over {settings['starts']} starts of the servers; the intervals are 95 %."
    )
    if result["disturbed_blocks"]:
        yield (
            f"**{result['disturbed_blocks']} of {len(result['blocks'])} blocks shared the machine: others took more "
            f"than {DISTURBED:.0%} of it.**"
        )
    for arm, lifted in result["lifted"].items():
        yield f"`{arm}` lifted, at a capped layer, {lifted['share']:.0%} of {lifted['tokens']} generated tokens."


def _tables(name: str, part: Result) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield _row(["arm", "blocks", *HEADS.values()])
    yield _row(["---"] * (2 + len(HEADS)))
    for arm, found in part["arms"].items():
        yield _row([arm, str(found["blocks"]), *(_median(found[n], n) for n in NUMBERS)])
    yield ""
    yield _row(["ratio", "pairs", *HEADS.values()])
    yield _row(["---"] * (2 + len(HEADS)))
    for pair, found in [*part["ratios"].items(), (f"{BASELINE}/{BASELINE}, the null", part["null"])]:
        yield _row([pair, str(len(found["tokens_per_s"]["pairs"])), *(_interval(found[n]) for n in NUMBERS)])


def _median(found: Mapping[str, float] | None, number: str) -> str:
    if found is None:
        return "-"
    return f"{found['p50'] * (1000 if number == 'cpu_s_per_token' else 1):.4g}"


def _interval(found: Mapping[str, Any]) -> str:
    if found["median"] is None:
        return "-"
    if found["low"] is None:
        return f"{found['median']:.4f}"
    return f"{found['median']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def _targets(result: Result) -> Iterator[str]:
    yield "## Targets"
    yield ""
    for target in result["targets"]:
        wanted = target["wanted"]
        bound = "" if wanted["low"] is None else f", lower end >= {wanted['low']}"
        size = "" if target["full_size"] else f"; smaller than {FULL_PAIRS} pairs of {FULL_SECONDS:g} s"
        found = target["measured"]
        yield (
            f"- {target['workload']}: {target['what']} >= {wanted['median']}{bound}: **{MET[target['met']]}** with "
            f"{_interval(found)}, by start {', '.join(f'{ratio:.4f}' for ratio in found['by_start'])}{size}"
        )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
