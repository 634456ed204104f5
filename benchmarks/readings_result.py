"""From blocks to the result of readings.py: what differs with readings, and the targets.

on            with readings and no history: what the targets are about
kept          with readings, and a history that keeps them
off           without readings

ratio         tokens per second of one turn over those without readings in the turn of the same prompts, seconds before
              or after it; CPU seconds per token of one round over those without readings (blocks.py)
added         of one round, a percentile of the last gap minus the same without readings, in ms
added_whole   the same of the time of a request
estimate      median over the turns or rounds, with its 95 % interval (blocks.py)
null          the same for the server without readings against itself, in neighbouring turns, or rounds of one start

A neighbour on the machine who takes it for seconds spoils a turn, and so one of the pairs and not the whole round.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from mooring_bench.blocks import estimate, interval, null, paired, starts_of
from overhead_result import MET, rounded

ON, KEPT, OFF = "unkept", "default", "unmeasured"
"""Arms, by their names in arms.py."""
LABELS: Final = {ON: "on", KEPT: "kept", OFF: "off"}
LOADS: Final = ("streamed", "whole")
RATIOS: Final = ("tokens_per_s", "cpu_s_per_token")
CPU: Final = RATIOS[1]
TIMES: Final = ("gap_ms", "last_gap_ms", "request_ms")
FULL_PAIRS: Final = 20
FULL_SECONDS: Final = 30.0
RATIO_WANTED: Final = 0.99
ADDED_WANTED: Final = 5.0
"""ms at the 99th percentile."""

Blocks = Sequence[Mapping[str, Any]]
Result = dict[str, Any]


def results(blocks: Blocks, loads: Sequence[str]) -> Result:
    return {load: _of_load([b for b in blocks if b["load"] == load]) for load in loads}


def _of_load(blocks: Blocks) -> Result:
    return {
        "arms": {arm: _of_arm([b for b in blocks if b["arm"] == arm]) for arm in LABELS},
        "against_off": {LABELS[arm]: _against_off(blocks, arm) for arm in (ON, KEPT)},
        "null": {"tokens_per_s": _itself(blocks), "cpu_s_per_token": rounded(estimate(null(blocks, OFF, CPU)))},
    }


def _against_off(blocks: Blocks, arm: str) -> Result:
    return {
        "ratio": {
            "tokens_per_s": _by_turn(blocks, arm),
            CPU: rounded(estimate(paired(blocks, arm, OFF, CPU), starts_of(blocks, arm, OFF, CPU))),
        },
        "added": {p: added(blocks, arm, "last_gap_ms", p) for p in ("p50", "p99")},
        "added_whole": {p: added(blocks, arm, "request_ms", p) for p in ("p50", "p99")},
    }


def _by_turn(blocks: Blocks, arm: str) -> Result:
    """Of the same work, so the times' ratio is that of the rates, turned over."""
    on, off = ({b["round"]: b for b in blocks if b["arm"] == name} for name in (arm, OFF))
    return _of_turns(
        [(off[r], off[r]["turn_seconds"], on[r]["turn_seconds"]) for r in sorted(on.keys() & off.keys())]
    )


def _itself(blocks: Blocks) -> Result:
    """A turn of the server without readings over the next one of the same block, none in two pairs."""
    turns = [(b, b["turn_seconds"]) for b in blocks if b["arm"] == OFF]
    return _of_turns([(b, found[: len(found) // 2 * 2 : 2], found[1::2]) for b, found in turns])


def _of_turns(parts: Sequence[tuple[Mapping[str, Any], Sequence[float], Sequence[float]]]) -> Result:
    """Of (block, seconds of its turns, seconds of as many that are compared with them)."""
    ratios = [(one / other, b.get("start", 0)) for b, *both in parts for one, other in zip(*both, strict=True)]
    return rounded(estimate([ratio for ratio, _ in ratios], [start for _, start in ratios]))


def _of_arm(blocks: Blocks) -> Result:
    return {
        "blocks": len(blocks),
        "answers": sum(b["answers"] for b in blocks),
        "lost": sum(b["lost"] for b in blocks),
        **{n: _median([b[n] for b in blocks]) for n in RATIOS},
        **{n: {p: _median([b[n][p] for b in blocks if b[n]]) for p in ("p50", "p99")} for n in TIMES},
    }


def _median(values: Sequence[float]) -> float | None:
    return float(f"{np.median(values):.6g}") if values else None


def added(blocks: Blocks, arm: str, number: str, percentile: str) -> Result:
    """Differences and their interval: of the arm against the server without readings, and of that against itself."""
    flat = [{**b, "value": b[number][percentile]} for b in blocks if b[number]]
    on, off = ({b["round"]: b["value"] for b in flat if b["arm"] == name} for name in (arm, OFF))
    start = {b["round"]: b.get("start", 0) for b in flat}
    both = sorted(on.keys() & off.keys())
    twice = [r for r in sorted(off) if r % 2 == 0 and r + 1 in off and start[r] == start[r + 1]]
    itself = _interval([off[r + 1] - off[r] for r in twice], [start[r] for r in twice])
    return _interval([on[r] - off[r] for r in both], [start[r] for r in both]) | {"null": itself}


def _interval(differences: Sequence[float], starts: Sequence[int]) -> Result:
    """Median with its interval; None where there is no pair, and no interval of fewer than two."""
    found: Result = {"median": None, "low": None, "high": None, "pairs": [round(d, 4) for d in differences]}
    values = np.asarray(differences)
    if len(values):
        found["median"] = round(float(np.median(values)), 4)
    if (limits := interval(values, starts)) is not None:
        found |= dict(zip(("low", "high"), (round(end, 4) for end in limits), strict=True))
    return found


def targets(found: Result, pairs: int, seconds: float) -> list[Result]:
    """Each held against what was measured; `met` is null where it was not measured."""
    made = []
    for load, part in found.items():
        on = part["against_off"]["on"]
        rounds = len(on["ratio"][CPU]["pairs"])
        made.append(
            _target(f"{load}: tokens per second, on / off", on["ratio"]["tokens_per_s"], rounds, at_least=RATIO_WANTED)
        )
        if load == "streamed":
            what = "streamed: ms added to the last gap at its p99"
            made.append(_target(what, on["added"]["p99"], rounds, at_most=ADDED_WANTED))
    size = {"pairs_planned": pairs, "block_seconds": seconds}
    return [{**t, **size, "full_size": t["pairs"] >= FULL_PAIRS and seconds >= FULL_SECONDS} for t in made]


def _target(
    what: str, measured: Mapping[str, Any], rounds: int, at_least: float = -np.inf, at_most: float = np.inf
) -> Result:
    value = measured["median"]
    return {
        "what": what,
        "wanted": f">= {at_least}" if at_most == np.inf else f"<= {at_most}",
        "measured": {key: measured[key] for key in ("median", "low", "high")},
        "met": None if value is None else bool(at_least <= value <= at_most),
        "pairs": rounds,
    }


# --- for people ----------------------------------------------------------------------------------

_NUMBERS: Final = dict(zip(RATIOS, ("tokens/s", "CPU per token"), strict=True))


def card(result: Result) -> str:
    """The result in Markdown."""
    parts = [list(_head(result)), *(list(_table(name, part)) for name, part in result["results"].items())]
    return "\n\n".join("\n".join(part) for part in [*parts, list(_targets(result))])


def _head(result: Result) -> Iterator[str]:
    where, settings = result["where"], result["settings"]
    yield f"# Cost of readings on `{settings['model']}`"
    yield ""
    if result["partial"]:
        yield f"**Partial: {result['stopped']}.**"
    found = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    yield f"{where['processor']}, {where['cores']} cores; {found}; {where['date']}, commit {where['commit']}."
    yield (
        f"{settings['pairs']} pairs of blocks of {settings['block_seconds']:g} s were asked for, in waves of "
        f"{len(settings['answer_tokens'])} answers, over {settings['starts']} starts of the servers; "
        "the intervals are 95 %."
    )


def _table(name: str, part: Result) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield _row(["readings", "blocks", "answers", "lost", "tokens/s", "CPU ms/token", *_timed("p50 / p99 ms")])
    yield _row(["---"] * 9)
    for arm, label in LABELS.items():
        found = part["arms"][arm]
        counts = [str(found[key]) for key in ("blocks", "answers", "lost")]
        cpu = found["cpu_s_per_token"] and found["cpu_s_per_token"] * 1000
        times = [
            f"{_short(found[n]['p50'])} / {_short(found[n]['p99'])}" for n in ("gap_ms", "last_gap_ms", "request_ms")
        ]
        yield _row([label, *counts, _short(found["tokens_per_s"]), _short(cpu), *times])
    yield ""
    for number, label in _NUMBERS.items():
        yield f"- {label}, off / off: {_told(part['null'][number])}"
    for arm, found in part["against_off"].items():
        yield from _differences(arm, found)


def _differences(arm: str, part: Result) -> Iterator[str]:
    for number, label in _NUMBERS.items():
        yield f"- {label}, {arm} / off: {_told(part['ratio'][number])}"
    for key, label in (("added", "last gap"), ("added_whole", "request")):
        for percentile, found in part[key].items():
            if found["median"] is not None:
                yield f"- {label}, {percentile}, {arm} - off: {_told(found)} ms; off - off: {_told(found['null'])} ms"


def _timed(what: str) -> list[str]:
    return [f"{name}, {what}" for name in ("gap", "last gap", "request")]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _told(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return _short(found["median"])
    return f"{found['median']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def _targets(result: Result) -> Iterator[str]:
    yield "## Targets"
    yield ""
    for target in result["targets"]:
        size = "" if target["full_size"] else f"; smaller than {FULL_PAIRS} pairs of {FULL_SECONDS:g} s"
        found = _told(target["measured"])
        yield f"- {target['what']} {target['wanted']}: {found}: **{MET[target['met']]}**{size}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
