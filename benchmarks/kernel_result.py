"""From replays to the result of kernel.py: per cell what each norm took, per pair of norms a ratio, the targets.

A block is one replay: {"round", "arm", "us"}. A ratio is taken within a round; its estimate is the median with a 95 %
bootstrap (blocks.py). `plain` is the faster of the two plain norms, by their medians in that cell.

    ratio      ours / plain
    added_us   median of ours - plain
    mixed      128 slots, each with its own axis, over one slot
    share      of a whole decode step, see decode_layers.py
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from mooring_bench.blocks import estimate, paired, rounded

PLAIN: Final = ("compiled", "by-hand")
OURS: Final = ("inductor", "triton")
KINDS: Final = ("off", "one", "many")
MANY_AXES: Final = 128
RATIO_FROM_ROWS: Final = 64
RATIO_WANTED: Final = 1.05
ADDED_WANTED: Final = 1.0
"""Microseconds, for fewer rows than that."""
MIXED_WANTED: Final = 1.02
SHARE_WANTED: Final = 0.005
MET: Final = {True: "met", False: "NOT MET", None: "not measured"}

Blocks = Sequence[Mapping[str, Any]]
Result = dict[str, Any]


class Cell(NamedTuple):
    """One number of rows at one hidden size."""

    rows: int
    hidden: int
    plain: str
    """Which of the plain norms was faster."""
    arms: dict[str, Result]
    """Of every norm: us (p20, p50, p80), GB/s and share of the roof at its median."""
    ratio: dict[str, Result]
    """Of each of ours."""
    added_us: dict[str, float]
    mixed: dict[str, Result]
    """Of each implementation."""

    def line(self) -> str:
        ours = ", ".join(f"{name}-one {self.ratio[f'{name}-one']['median']:.3f} x" for name in OURS)
        return f"{self.rows} x {self.hidden}: {self.plain} {self.arms[self.plain]['us']['p50']:.2f} us, {ours}"


class StackCell(NamedTuple):
    """One number of rows through a stack of layers."""

    model: str
    rows: int
    layers_run: int
    layers: int
    sites: int
    us: dict[str, Result]
    """Of every arm, for one pass."""
    site_us: dict[str, float]
    """What one site adds."""
    share: dict[str, float]
    """Of a decode step of the whole model, what its sites add."""

    def line(self) -> str:
        shares = ", ".join(f"{name} +{self.share[name]:.3%}" for name in OURS)
        return f"{self.model}, {self.rows} rows: {self.us['plain']['p50']:.0f} us in {self.layers_run} layers, {shares}"


def cell_of(rows: int, hidden: int, itemsize: int, blocks: Blocks, roof: float) -> Cell:
    us = {arm: spread(values(blocks, arm)) for arm in dict.fromkeys(b["arm"] for b in blocks)}
    plain = min(PLAIN, key=lambda arm: us[arm]["p50"])
    ours = [f"{name}-{kind}" for name in OURS for kind in KINDS]
    arms = {}
    for arm, found in us.items():
        rate = bytes_moved(rows, hidden, itemsize, axes_of(arm)) / found["p50"] / 1e3
        arms[arm] = {"us": found, "gb_per_s": round(rate, 1), "share_of_roof": round(rate / roof, 3)}
    return Cell(
        rows,
        hidden,
        plain,
        arms,
        {arm: ratio(blocks, arm, plain) for arm in ours},
        {arm: added(blocks, arm, plain) for arm in ours},
        {name: ratio(blocks, f"{name}-many", f"{name}-one") for name in OURS},
    )


def axes_of(arm: str) -> int:
    """How many axes a norm's rows have."""
    return 0 if arm in PLAIN else MANY_AXES if arm.endswith("-many") else 1


def bytes_moved(rows: int, hidden: int, itemsize: int, axes: int) -> int:
    """Each input read once and each output written once; the cap's are the axes that rows have, slots, projections."""
    plain = 4 * rows * hidden * itemsize + hidden * itemsize
    return plain + (min(axes, rows) * hidden * 4 + 2 * rows * 4 if axes else 0)


def stack_cell_of(model: str, rows: int, run: int, layers: int, sites: int, blocks: Blocks) -> StackCell:
    us = {arm: spread(values(blocks, arm)) for arm in ("plain", *OURS)}
    site = {arm: added(blocks, arm, "plain") / run for arm in OURS}
    step = us["plain"]["p50"] / run * layers
    shares = {arm: round(site[arm] * sites / step, 6) for arm in OURS}
    return StackCell(model, rows, run, layers, sites, us, {arm: round(of, 4) for arm, of in site.items()}, shares)


def values(blocks: Blocks, arm: str) -> list[float]:
    return [b["us"] for b in blocks if b["arm"] == arm]


def spread(found: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(found, p)), 4) for p in (20, 50, 80)}


def ratio(blocks: Blocks, arm: str, baseline: str) -> Result:
    found = rounded(estimate(paired(blocks, arm, baseline, "us")))
    return {name: found[name] for name in ("median", "low", "high")}


def added(blocks: Blocks, arm: str, baseline: str) -> float:
    below = {b["round"]: b["us"] for b in blocks if b["arm"] == baseline}
    return round(float(np.median([b["us"] - below[b["round"]] for b in blocks if b["arm"] == arm])), 4)


# --- the targets ---------------------------------------------------------------------------------


def targets(cells: Sequence[Cell], stacks: Sequence[StackCell]) -> list[Result]:
    """Each for both implementations, by its worst cell; `met` is null where it was not measured."""
    return [target for name in OURS for target in _targets_of(name, cells, stacks)]


def _targets_of(name: str, cells: Sequence[Cell], stacks: Sequence[StackCell]) -> Iterator[Result]:
    one = f"{name}-one"
    many = [c for c in cells if c.rows >= RATIO_FROM_ROWS]
    few = [c for c in cells if c.rows < RATIO_FROM_ROWS]
    what = f"{name}: of the plain norm's time, from {RATIO_FROM_ROWS} rows on"
    yield _target(what, RATIO_WANTED, [(_place(c), c.ratio[one]["median"]) for c in many])
    what = f"{name}: microseconds added to the plain norm, below {RATIO_FROM_ROWS} rows"
    yield _target(what, ADDED_WANTED, [(_place(c), c.added_us[one]) for c in few])
    mixed = [c for c in cells if c.rows >= MANY_AXES]
    what = f"{name}: of the time with one slot, {MANY_AXES} slots with an axis each, from {MANY_AXES} rows on"
    yield _target(what, MIXED_WANTED, [(_place(c), c.mixed[name]["median"]) for c in mixed])
    what = f"{name}: of a whole decode step, added"
    yield _target(what, SHARE_WANTED, [(f"{s.model}, {s.rows} rows", s.share[name]) for s in stacks])


def _place(cell: Cell) -> str:
    return f"{cell.rows} x {cell.hidden}"


def _target(what: str, wanted: float, found: Sequence[tuple[str, float]]) -> Result:
    place, worst = max(found, key=lambda one: one[1], default=(None, None))
    kept = sum(value <= wanted for _, value in found)
    met = None if worst is None else worst <= wanted
    return {"what": what, "wanted": wanted, "worst": worst, "at": place, "kept": kept, "of": len(found), "met": met}


# --- the card ------------------------------------------------------------------------------------


def card(result: Result, cells: Sequence[Cell], stacks: Sequence[StackCell]) -> str:
    """The result in Markdown."""
    parts = [_head(result), *(_table(cells, hidden) for hidden in dict.fromkeys(c.hidden for c in cells))]
    parts += [_stack_table(stacks)] if stacks else []
    parts += [_faster(cells)] if cells else []
    parts.append(_target_list(result["targets"]))
    return "\n\n".join("\n".join(part) for part in parts)


def _head(result: Result) -> Iterator[str]:
    where, device = result["where"], result["where"]["device"]
    yield f"# The cap inside the norm, on one {device['name']}"
    yield ""
    if result["partial"]:
        yield f"**Partial: {result['stopped']}.**"
    found = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    yield f"CUDA {device['cuda']}; {found}; {where['date']}, commit {where['commit']}."
    yield (
        f"A device copy reaches {result['copy_roof_gb_per_s']:.0f} GB/s. {result['settings']['dtype']}, medians of "
        f"{result['settings']['rounds']} replays in turn; ratios are to the faster plain norm. The JSON has their 95 % "
        "intervals, and every norm's GB/s."
    )


def _table(cells: Sequence[Cell], hidden: int) -> Iterator[str]:
    heads = ["rows", "compiled", "by hand", *(f"{name}, {kind}" for name in OURS for kind in KINDS), "triton of roof"]
    yield f"## Hidden size {hidden}: microseconds (ratio)"
    yield ""
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for cell in (c for c in cells if c.hidden == hidden):
        plain = [f"{cell.arms[arm]['us']['p50']:.2f}" for arm in PLAIN]
        yield _row([str(cell.rows), *plain, *(_ours(cell, f"{n}-{k}") for n in OURS for k in KINDS), _roof(cell)])


def _ours(cell: Cell, arm: str) -> str:
    return f"{cell.arms[arm]['us']['p50']:.2f} ({cell.ratio[arm]['median']:.3f})"


def _roof(cell: Cell) -> str:
    return f"{cell.arms['triton-one']['share_of_roof']:.0%}"


def _stack_table(stacks: Sequence[StackCell]) -> Iterator[str]:
    yield "## Decoder layers in one CUDA graph, without attention"
    yield ""
    heads = ["model", "rows", "layers run", "plain us"]
    heads += [head for name in OURS for head in (f"{name}: us a site", "share of a step")]
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for s in stacks:
        ours = [cell for name in OURS for cell in (f"{s.site_us[name]:.3f}", f"{s.share[name]:.3%}")]
        yield _row([s.model, str(s.rows), f"{s.layers_run} of {s.layers}", f"{s.us['plain']['p50']:.1f}", *ours])


def _faster(cells: Sequence[Cell]) -> Iterator[str]:
    """What the choice of the default should be made by."""
    wins = sum(c.arms["triton-one"]["us"]["p50"] < c.arms["inductor-one"]["us"]["p50"] for c in cells)
    yield f"The Triton kernel was faster than Inductor's fusion in {wins} of {len(cells)} cells (one slot)."


def _target_list(all_targets: Sequence[Result]) -> Iterator[str]:
    yield "## Targets"
    yield ""
    for t in all_targets:
        found_at = f"; kept in {t['kept']} of {t['of']}, at worst {t['worst']:.4g} at {t['at']}" if t["of"] else ""
        yield f"- {t['what']} <= {t['wanted']}: **{MET[t['met']]}**{found_at}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
