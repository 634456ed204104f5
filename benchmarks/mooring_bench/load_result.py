"""From blocks of load to numbers and a card.

    results     rung -> arm -> {metrics, ratios}
    metrics     median over the arm's blocks of each number, failures and cached prompt tokens in all
    ratios      number -> arm / baseline, as blocks.py estimates it; of the baseline, its null: itself against itself
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

from mooring_bench.blocks import estimate, null, paired, rounded
from mooring_bench.record import machine

SHOWN: Final = {
    "tokens_per_s": "tokens/s",
    "ttft_ms.p50": "TTFT p50", "ttft_ms.p90": "TTFT p90", "ttft_ms.p99": "TTFT p99",
    "itl_ms.p50": "ITL p50", "itl_ms.p90": "ITL p90", "itl_ms.p99": "ITL p99",
    "e2e_ms.p50": "E2E p50", "e2e_ms.p90": "E2E p90", "e2e_ms.p99": "E2E p99",
}  # fmt: skip
"""Number of a block -> how it is called."""
Blocks = Sequence[Mapping[str, Any]]


def compared(blocks: Blocks, arms: Sequence[str], rungs: Sequence[int]) -> dict[str, Any]:
    """Rung -> arm -> what is known of it; the first arm is the baseline."""
    flat = [_flat(block) for block in blocks]
    return {str(rung): _rung([b for b in flat if b["concurrency"] == rung], arms) for rung in rungs}


def _rung(blocks: Blocks, arms: Sequence[str]) -> dict[str, Any]:
    found = {}
    for arm in arms:
        own = [block for block in blocks if block["arm"] == arm]
        found[arm] = {
            "metrics": {
                **{number: _median([b[number] for b in own]) for number in SHOWN},
                "blocks": len(own),
                "succeeded": sum(b["succeeded"] for b in own),
                "failed": sum(b["failed"] for b in own),
                "cached_tokens": _sum([b["cached_tokens"] for b in own]),
            },
            "ratios": {number: rounded(estimate(_ratios(blocks, arm, arms[0], number))) for number in SHOWN},
        }
    return found


def _ratios(blocks: Blocks, arm: str, baseline: str, number: str) -> list[float]:
    return null(blocks, arm, number) if arm == baseline else paired(blocks, arm, baseline, number)


def _flat(block: Mapping[str, Any]) -> dict[str, Any]:
    """With one key for each of SHOWN; None where nothing succeeded."""
    numbers = {}
    for number in SHOWN:
        name, _, percentile = number.partition(".")
        value = block[name]
        numbers[number] = value[percentile] if percentile and value else value
    return {**block, **numbers}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 4) if known else None


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


# --- the card ------------------------------------------------------------------------------------


def card(result: Mapping[str, Any]) -> str:
    return "\n".join([*_head(result), *_table(result), *_ratio_table(result)])


def _head(result: Mapping[str, Any]) -> Iterator[str]:
    where, settings, names = result["where"], result["settings"], [arm["name"] for arm in result["arms"]]
    yield f"# Load: {', '.join(names)}"
    yield ""
    if result["partial"]:
        yield f"**Partial: {result['stopped']}.** {len(result['blocks'])} blocks were measured."
        yield ""
    yield (
        f"{machine(where)}, {where['date']}, commit {where['commit']}; "
        f"{settings['workload']} load, {settings['pairs']} rounds of {settings['block_seconds']:g} s a block."
    )
    if settings["mode"] == "mixed":
        yield "All arms were in one batch: they share its steps, so these ratios do not say what an arm costs."
    if result["note"]:
        yield f"Served by `{result['note']}`."
    yield ""


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    yield _row(["at a time", "arm", *SHOWN.values(), "failed", "cached tokens"])
    yield _row(["---"] * (len(SHOWN) + 4))
    for rung, arms in result["results"].items():
        for arm, found in arms.items():
            metrics = found["metrics"]
            failed = f"{metrics['failed']} of {metrics['failed'] + metrics['succeeded']}"
            yield _row([rung, arm, *(_number(metrics[n]) for n in SHOWN), failed, _number(metrics["cached_tokens"])])


def _ratio_table(result: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    baseline = result["arms"][0]["name"]
    yield f"Ratios to `{baseline}`, with 95 % intervals; its own row is the null, itself against itself:"
    yield ""
    yield _row(["at a time", "arm", *SHOWN.values()])
    yield _row(["---"] * (len(SHOWN) + 2))
    for rung, arms in result["results"].items():
        for arm, found in arms.items():
            yield _row([rung, arm, *(_interval(found["ratios"][number]) for number in SHOWN)])


def _interval(found: Mapping[str, Any]) -> str:
    if found["median"] is None:
        return "-"
    bounds = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found['median']:.3f}{bounds}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
