"""What the cap costs a norm on a CUDA device, and a whole decode step: one command, without vLLM and without a model.

    python benchmarks/kernel.py [--rows 1,8,32,64,256,1024,8192] [--hidden 896,1024,...,16384]
                                [--dtype bfloat16|float16|float32] [--rounds 32]
                                [--stack qwen3-32b,llama-3-70b|none] [--stack-rows 1,16,64,256] [--layers 8]
                                [--short] [--out FILE]

Needs a CUDA device, torch, triton and numpy. First every norm of norms.py is held against the definition in fp64 on
fresh input; one that is wrong stops the run. Then, for every number of rows and every hidden size, each norm is
captured in a CUDA graph of many calls over inputs that together do not fit the L2 cache (for few rows: of 32 inputs),
and the graphs are replayed in turn, in the order of blocks.py. The unit is microseconds per call, launch included, as
in a decode step that is one CUDA graph.

    GB/s     bytes that have to be moved (x, residual, both outputs, weight, axes, slots) / time
    roof     GB/s of a device-to-device copy, of bytes read and written, on the same device in the same run

Last, a stack of decoder layers of a real model's shape (decode_layers.py) is one CUDA graph, with plain norms, and with
the cap in every layer.

Output: a card for people, and the last line of stdout is one JSON document with every number, which --out also gets,
after every part. A run that is interrupted leaves what it has, marked `"partial": true`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
# Of this checkout: the machine with the GPU need not have Mooring installed.
sys.path[:0] = [str(ROOT / "axes"), str(ROOT / "hooks")]

from kernel_result import Cell, Result, StackCell, card, cell_of, stack_cell_of, targets  # noqa: E402
from mooring_bench.blocks import orders  # noqa: E402
from mooring_bench.record import save, where  # noqa: E402
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE, sigterm_as_ctrl_c  # noqa: E402

ROWS: Final = (1, 8, 32, 64, 256, 1024, 8192)
HIDDEN: Final = (896, 1024, 2304, 4096, 5120, 8192, 16384)
STACKS: Final = ("qwen3-32b", "llama-3-70b")
STACK_ROWS: Final = (1, 16, 64, 256)
ROUNDS: Final = 32
SHORT: Final = {"rows": (1, 64, 4096), "hidden": (1024, 5120, 8192), "rounds": 8, "stack_rows": (16,), "layers": 2}
CHECKED_ROWS: Final = 64
MOST_INPUTS: Final = 32
CALLS: Final = 64
"""Of a graph, at least."""
COPIED: Final = 1 << 31
"""Bytes."""
MEMORY: Final = 0.8
"""Share of the free memory that a stack's weights may take."""

Timed = Callable[[], float]
"""Run once and return microseconds per call."""


class CannotMeasure(Exception):
    """Something the caller has to change; the run ends with 2."""


@dataclass
class Run:
    """What is known so far."""

    options: argparse.Namespace
    where: dict[str, Any]
    roof: float = 0.0
    """GB/s."""
    worst_errors: dict[str, dict[str, float]] = field(default_factory=dict)
    """Arm -> output -> the largest at any hidden size."""
    cells: list[Cell] = field(default_factory=list)
    stacks: list[StackCell] = field(default_factory=list)


@sigterm_as_ctrl_c()
def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    run, stopped, code = None, None, 0
    try:
        run = Run(options, where() | {"device": device()})
        measure(run)
    except KeyboardInterrupt:
        stopped, code = INTERRUPTED, INTERRUPTED_CODE
    except CannotMeasure as reason:
        stopped, code = str(reason), 2
    if stopped is not None:
        say(f"kernel: {stopped}")
    if run is not None and (run.cells or run.stacks):
        tell(run, stopped)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    own = argparse.ArgumentParser(
        prog="kernel.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("--rows", type=_numbers, default=ROWS)
    own.add_argument("--hidden", type=_numbers, default=HIDDEN)
    own.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    own.add_argument("--rounds", type=_number, default=ROUNDS, help="replays of every graph")
    own.add_argument("--stack", type=_stacks, default=STACKS, metavar="NAMES", help="or none")
    own.add_argument("--stack-rows", type=_numbers, default=STACK_ROWS)
    own.add_argument("--layers", type=_number, default=8, help="of a stack, at most; fewer where memory ends")
    own.add_argument("--short", action="store_true", help="some of it, in about a minute")
    own.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes besides stdout")
    options = own.parse_args(arguments)
    if options.short:
        vars(options).update(SHORT)
    return options


def _number(text: str) -> int:
    if not (value := int(text)) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_number(part) for part in text.split(","))


def _stacks(text: str) -> tuple[str, ...]:
    names = () if text == "none" else tuple(text.split(","))
    if unknown := [name for name in names if name not in STACKS]:
        raise argparse.ArgumentTypeError(f"there is no stack {unknown[0]!r}; there are {', '.join(STACKS)}, and none")
    return names


def device() -> dict[str, Any]:
    """The first CUDA device; CannotMeasure where there is none that can be measured."""
    wanted = "this needs a CUDA device, torch built for CUDA, triton and numpy"
    try:
        import torch
        import triton
    except ImportError as error:
        raise CannotMeasure(f"{error.name} cannot be imported: {wanted}") from None
    if not torch.cuda.is_available():
        raise CannotMeasure(f"torch {torch.__version__} finds no CUDA device: {wanted}")
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory_gib": round(found.total_memory / 2**30, 1),
        "multiprocessors": found.multi_processor_count,
        "l2_bytes": found.L2_cache_size,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


# --- on the device -------------------------------------------------------------------------------


def measure(run: Run) -> None:
    import torch

    options = run.options
    torch.manual_seed(0)
    with torch.inference_mode():
        run.roof = copy_roof()
        for hidden in options.hidden:
            norms_of = prepare(run, hidden)
            for rows in options.rows:
                measure_cell(run, rows, hidden, norms_of)
        for name in options.stack:
            measure_stack(run, name)


def copy_roof() -> float:
    """GB/s of copying a device buffer that no cache holds."""
    import torch

    source = torch.randint(256, (COPIED,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    replay = captured([lambda: target.copy_(source)] * 4)
    return 2 * COPIED / 1e3 / min(replay() for _ in range(10))


def prepare(run: Run, hidden: int) -> dict[str, Any]:
    """Every arm's norm at one hidden size, proven on the device."""
    import torch

    import norms

    torch._dynamo.reset()
    dtype, most = getattr(torch, run.options.dtype), max(*run.options.rows, CHECKED_ROWS)
    made = {}
    for arm in norms.ARMS:
        site = norms.site_of(arm, hidden, dtype, most, torch.device("cuda"))
        norm = norms.norm_of(arm, site, whole)
        check(run, arm, hidden, norms.errors(arm, norm, site, *inputs(CHECKED_ROWS, hidden, dtype)), norms.TOLERANCES)
        made[arm] = norm
    return made


def whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile it, and refuse to leave a part of it uncompiled."""
    import torch

    compiled: Callable[..., Any] = torch.compile(function, fullgraph=True)
    return compiled


def inputs(rows: int, hidden: int, dtype: Any) -> Any:
    """(x, residual) whose rows may change without compiling anew."""
    import torch

    pair = torch.randn(2, rows, hidden, device="cuda").to(dtype).unbind()
    for tensor in pair:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return pair


def check(run: Run, arm: str, hidden: int, found: Mapping[str, float], tolerances: Mapping[Any, float]) -> None:
    """Keep the worst of each output, and stop at one that is wrong."""
    import torch

    worst = run.worst_errors.setdefault(arm, {})
    for output, error in found.items():
        worst[output] = max(error, worst.get(output, 0.0))
        if not error <= (limit := tolerances[getattr(torch, run.options.dtype)]):
            raise CannotMeasure(
                f"{arm} is wrong at hidden size {hidden}: its {output} differs from the definition by {error:.2g} "
                f"(relative; at most {limit:.2g} is allowed), so nothing is timed"
            )


def measure_cell(run: Run, rows: int, hidden: int, norms_of: Mapping[str, Any]) -> None:
    import torch

    dtype = getattr(torch, run.options.dtype)
    size = 4 * rows * hidden * dtype.itemsize
    count = max(1, min(MOST_INPUTS, -(-2 * run.where["device"]["l2_bytes"] // size)))
    pairs = [inputs(rows, hidden, dtype) for _ in range(count)]
    repeats = -(-CALLS // count)
    replays = {
        arm: captured([lambda norm=norm, pair=pair: norm(*pair) for pair in pairs] * repeats)
        for arm, norm in norms_of.items()
    }
    run.cells.append(cell_of(rows, hidden, dtype.itemsize, take_turns(replays, run.options.rounds), run.roof))
    report(run, run.cells[-1].line())


def captured(calls: Sequence[Callable[[], Any]]) -> Timed:
    """One CUDA graph of all calls, one after the other."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def replay() -> float:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / len(calls)

    return replay


def take_turns(replays: Mapping[str, Timed], rounds: int) -> list[dict[str, Any]]:
    """One block per arm and round, after a round that does not count."""
    for replay in replays.values():
        replay()
    order = enumerate(orders(list(replays), rounds))
    return [{"round": number, "arm": arm, "us": replays[arm]()} for number, arms in order for arm in arms]


def measure_stack(run: Run, name: str) -> None:
    """Every arm runs the same layers on the same input."""
    import torch

    import decode_layers
    import norms

    torch._dynamo.reset()
    shape, dtype, cuda = decode_layers.SHAPES[name], getattr(torch, run.options.dtype), torch.device("cuda")
    fit = int(MEMORY * torch.cuda.mem_get_info()[0] / shape.bytes_per_layer(dtype.itemsize))
    if not (depth := min(run.options.layers, fit)):
        say(f"kernel: {name} is left out: no layer of it fits the free memory")
        return
    layers = [decode_layers.Layer.random(shape, dtype, cuda) for _ in range(depth)]
    most = max(run.options.stack_rows)
    sites = [norms.Site.random(shape.hidden, dtype, most, "many", cuda) for _ in range(depth)]
    steps = {arm: decode_layers.step_of(arm, layers, sites, whole) for arm in decode_layers.ARMS}
    for rows in run.options.stack_rows:
        pair = inputs(rows, shape.hidden, dtype)
        replays = {arm: captured([lambda step=step, pair=pair: step(*pair)]) for arm, step in steps.items()}
        blocks = take_turns(replays, run.options.rounds)
        run.stacks.append(stack_cell_of(name, rows, depth, shape.layers, shape.sites, blocks))
        report(run, run.stacks[-1].line())


# --- what is told --------------------------------------------------------------------------------


def report(run: Run, line: str) -> None:
    say(f"  {line}")
    if run.options.out:
        save(run.options.out, document(run, "it is still running"))


def document(run: Run, stopped: str | None) -> Result:
    """The whole result; `stopped` says why it is not whole."""
    settings = {name: value for name, value in vars(run.options).items() if name != "out"}
    return {
        "benchmark": "kernel",
        "partial": stopped is not None,
        "stopped": stopped,
        "where": run.where,
        "settings": settings,
        "copy_roof_gb_per_s": round(run.roof, 1),
        "worst_relative_errors": run.worst_errors,
        "targets": targets(run.cells, run.stacks),
        "cells": [cell._asdict() for cell in run.cells],
        "stacks": [stack._asdict() for stack in run.stacks],
    }


def tell(run: Run, stopped: str | None) -> None:
    result = document(run, stopped)
    if run.options.out:
        save(run.options.out, result)
    print(card(result, run.cells, run.stacks), end="\n\n")
    print(json.dumps(result, separators=(",", ":")))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
