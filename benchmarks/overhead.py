"""What Mooring costs: stock vLLM against Mooring, in paired blocks on one machine.

    python benchmarks/overhead.py --model demo|qwen3-0.6b-shape|qwen3-tiny-shape|MODEL [--workload decode|prefill|both]
                                  [--arms stock,again,off,default,measuring,unmeasured,sixteen,hundred] [--pairs 20]
                                  [--block-seconds 30] [--starts 2] [--short] [--out FILE]

Every arm's server (arms.py) is started, with the same options, compiled. Then one arm at a time gets a block of load
(load.py): a fixed number of requests, as many as keep stock vLLM busy for --block-seconds. The blocks of a round are
divided into turns of about 3 s, or one wave, and the arms take them in the order of blocks.py, back and forth. Arms of
one round, which answered the same prompts, are compared as a pair.

The same server started twice can be some per cent faster or slower throughout, by where its memory came to lie. So
the rounds are divided among --starts starts of all servers, each in the reverse order of the one before.

    decode     short prompts and long answers, 16 at a time          tokens/s of generated tokens
    prefill    long prompts and answers of one token, 16 at a time   tokens/s of prompt tokens

qwen3-0.6b-shape has Qwen3-0.6B's shape and random weights (stand_in.py makes them, once), a cap on 8 layers that
lifts about half of the rows, and one monitored layer. qwen3-tiny-shape, of four narrow layers, and any other MODEL, a
folder or a hub name, get the same cap on the same share of their layers.

Output: a card for people, and the last line of stdout is one JSON document with every block's raw numbers, which
--out also gets, after every block. A run that is interrupted leaves what it has, marked `"partial": true`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import load
from arms import ARMS, BASELINE, SLOTS, Server, Subject, servers, start_all, stop_all, target
from load import CannotMeasure, Heard, Pass, Workload, percentiles
from mooring_axes import demo
from mooring_bench.blocks import Turns, orders, spread, turns
from mooring_bench.record import ROOT, save, where
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE, sigterm_as_ctrl_c
from overhead_result import FULL_PAIRS, FULL_SECONDS, Result, card, disturbed, results, targets
from turns import Block, take_turns

FOLDER: Final = ROOT / ".build" / "benchmarks"
CONCURRENCY: Final = 16
PILOT_SECONDS: Final = 5.0
SHORT_PAIRS, SHORT_SECONDS = 2, 5.0
STARTS: Final = 2
SHARE: Final = ("--gpu-memory-utilization", "0.2") if shutil.which("nvidia-smi") else ()
"""Where there is a GPU: all servers are up at once, and each would take nine tenths of it."""
OPTIONS: Final = ("--max-model-len", "2048", "--max-num-seqs", "64", "--uvicorn-log-level", "warning", *SHARE)
"""Of vLLM, for every server."""
ANY: Final = "any other"
USUAL: Final = (Workload("decode", 16, 128), Workload("prefill", 1024, 1))
WORKLOADS: Final = {
    ANY: USUAL,
    "demo": USUAL,
    "qwen3-0.6b-shape": (Workload("decode", 16, 32), Workload("prefill", 256, 1)),
    "qwen3-tiny-shape": USUAL,
}


@dataclass
class Run:
    """What is known so far."""

    options: argparse.Namespace
    subject: Subject
    servers: dict[str, Server]
    workloads: Sequence[Workload]
    where: dict[str, Any]
    turns: dict[str, Turns] = field(default_factory=dict)
    """Of a block of each workload."""
    lifted: dict[str, Any] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)


@sigterm_as_ctrl_c()
def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    run, stopped, code = None, None, 0
    try:
        run = prepare(options)
        measure(run)
    except KeyboardInterrupt:
        stopped, code = INTERRUPTED, INTERRUPTED_CODE
    except CannotMeasure as reason:
        stopped, code = " ".join(str(reason).split()), 2
    finally:
        if run is not None:
            stop_all(run.servers)
    if stopped is not None:
        say(f"overhead: {stopped}")
    if run is not None and run.blocks:
        tell(run, stopped)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    own = argparse.ArgumentParser(
        prog="overhead.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("--model", required=True, help="demo, qwen3-0.6b-shape, qwen3-tiny-shape, or any model")
    own.add_argument("--workload", choices=["decode", "prefill", "both"], default="both")
    own.add_argument("--arms", type=_arms, default="stock,off,default", help="in the order of the first round")
    own.add_argument("--pairs", type=_positive(int), default=FULL_PAIRS, help="rounds of one block per arm")
    own.add_argument("--block-seconds", type=_positive(float), default=FULL_SECONDS)
    own.add_argument("--starts", type=_positive(int), default=STARTS, help="of all servers, over which rounds spread")
    own.add_argument("--short", action="store_true", help=f"{SHORT_PAIRS} pairs of {SHORT_SECONDS:g} s, one start")
    own.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes besides stdout")
    options = own.parse_args(arguments)
    if options.short:
        options.pairs, options.block_seconds, options.starts = SHORT_PAIRS, SHORT_SECONDS, 1
    return options


def _arms(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ARMS]:
        raise argparse.ArgumentTypeError(f"there is no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    if BASELINE not in names or len(names) < 2 or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"name {BASELINE!r} and at least one other arm, each once")
    return names


def _positive(kind: type) -> Any:
    def read(text: str) -> Any:
        if not (value := kind(text)) > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    read.__name__ = kind.__name__
    return read


# --- before the clock starts ---------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> Run:
    """Make what is served; nothing has been started yet."""
    folder = folder_of(options.model)
    subject = subject_for(options.model, folder, slots=bool(set(options.arms) & set(SLOTS)))
    workloads = [w for w in workloads_of(options.model) if options.workload in (w.name, "both")]
    return Run(options, subject, servers(subject, options.arms, OPTIONS, folder), workloads, where())


def workloads_of(model: str) -> tuple[Workload, ...]:
    return WORKLOADS.get(model, WORKLOADS[ANY])


def folder_of(model: str) -> Path:
    return FOLDER / re.sub(r"[^A-Za-z0-9.-]+", "-", model).strip("-")


def subject_for(model: str, folder: Path, slots: bool = False) -> Subject:
    """Its subject, with what is served in the folder; `slots` says whether servers with many profiles are wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    if model != "demo" or slots:
        make_stand_in(model, folder)
    return subject_of(model, folder)


def make_stand_in(model: str, folder: Path) -> None:
    """In a process of its own, so that this one stays small."""
    script = Path(__file__).with_name("stand_in.py")
    made = folder / "made.json"
    if made.exists() and made.stat().st_mtime > script.stat().st_mtime:
        return
    say(f"making {folder.relative_to(ROOT)} (up to a minute) ...")
    done = subprocess.run([sys.executable, str(script), model, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise CannotMeasure(f"stand_in.py failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def subject_of(model: str, folder: Path) -> Subject:
    if model == "demo":
        words = vocabulary(demo.MODEL_DIR)
        return Subject(model, str(demo.MODEL_DIR), "demo", default_of_demo(), words, (), folder, 1)
    own = str(folder / "model") if model in WORKLOADS else model
    served = ("--axis", str(folder / "axis.safetensors"), "--axis-of-another-model")
    return Subject(model, own, own, "default", vocabulary(own), served, folder, 2)


def default_of_demo() -> str:
    from mooring_axes.profiles import load_profiles

    return str(load_profiles(demo.PROFILES_FILE).default)


def vocabulary(model: Path | str) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(model).get_text_config().vocab_size)


def measure(run: Run) -> None:
    """All rounds, spread over the starts."""
    options = run.options
    for start, rounds in enumerate(spread(orders(options.arms, options.pairs), options.starts)):
        start_servers(run, backwards=start % 2 == 1)
        if not run.turns:
            plan(run)
        for number, order in rounds:
            measure_round(run, start, number, order)
        stop_all(run.servers)


def start_servers(run: Run, backwards: bool) -> None:
    """Start all, one after the other, and warm up every arm."""
    start_all(run.servers, backwards, say)
    for arm in run.options.arms:
        warm_up(run, arm)


def plan(run: Run) -> None:
    """Find out how much work a block is."""
    seconds = 0.0
    for workload in run.workloads:
        run.turns[workload.name], expected = pilot(run, workload)
        seconds += expected
    say(f"measuring for about {run.options.pairs * len(run.options.arms) * seconds / 60:.0f} minutes ...")


def measure_round(run: Run, start: int, number: int, order: Sequence[str]) -> None:
    for workload in run.workloads:
        run.blocks += [{"start": start, **block} for block in blocks(run, workload, number, order)]
        if run.options.out:
            save(run.options.out, document(run, "it is still running"))


def warm_up(run: Run, arm: str) -> None:
    """Two waves of each kind; of long answers, what share of their tokens was lifted."""
    seed = 1, list(ARMS).index(arm)  # arms of one server must not find each other's prompts in its cache
    for workload in workloads_of(run.options.model):
        heard = send(run, workload, arm, 2 * CONCURRENCY, seed, keep=True)
        if workload.answer_tokens > 1 and (found := lifted(heard.bodies)):
            run.lifted[arm] = found


def pilot(run: Run, workload: Workload) -> tuple[Turns, float]:
    """What keeps stock vLLM busy for a block, and for how many seconds it does."""
    waves, spent = 0, 0.0
    while spent < PILOT_SECONDS:
        spent += send(run, workload, BASELINE, 2 * CONCURRENCY, (2, waves)).seconds
        waves += 2
    found = turns(run.options.block_seconds, spent / waves)
    return found, found.total * spent / waves


def lifted(bodies: Sequence[bytes]) -> dict[str, Any] | None:
    """What the server's own readings say: of generated tokens, the share lifted at a capped layer."""
    readings = [told for body in bodies if isinstance(told := json.loads(body).get("mooring"), dict)]
    layers = [
        {layer: of["lifted_share"] for layer, of in told["layers"].items() if int(layer) != told["monitored_layer"]}
        for told in readings
        if told.get("layers")
    ]
    if not layers:
        return None
    by_layer = {layer: sum(one[layer] for one in layers) / len(layers) for layer in layers[0]}
    return {
        "share": round(sum(by_layer.values()) / len(by_layer), 4),
        "by_layer": {layer: round(share, 4) for layer, share in by_layer.items()},
        "tokens": sum(told["measured_tokens"] for told in readings),
        "complete": all(told["complete"] for told in readings),
    }


# --- the blocks of a round -----------------------------------------------------------------------


def send(run: Run, workload: Workload, arm: str, requests: int, seed: tuple[int, ...], keep: bool = False) -> Heard:
    server = run.servers[ARMS[arm].server]
    try:
        return load.run(Pass(target(arm, run.subject, server), workload, requests, CONCURRENCY, seed, keep))
    except CannotMeasure as reason:
        server.check()
        raise CannotMeasure(f"{arm}, {workload.name}: {reason}") from None


def blocks(run: Run, workload: Workload, number: int, order: Sequence[str]) -> list[dict[str, Any]]:
    """Load the arms of a round in turn."""

    def one(arm: str, waves: int, turn: int) -> Heard:
        return send(run, workload, arm, waves * CONCURRENCY, (3, number, turn))

    found = take_turns(order, run.turns[workload.name], run.servers, Heard, one)
    return [block(run, workload, arm, found[arm]) | {"round": number, "place": i} for i, arm in enumerate(order)]


def block(run: Run, workload: Workload, arm: str, found: Block[Heard]) -> dict[str, Any]:
    """The numbers of one arm."""
    heard, requests = found.heard, run.turns[workload.name].total * CONCURRENCY
    (by_process, resting), tokens = found.split(arm), workload.tokens(requests)
    own = sum(by_process.values())
    measured = {
        "workload": workload.name,
        "arm": arm,
        "ended": round(time.time(), 1),
        "seconds": round(heard.seconds, 4),
        "requests": requests,
        "tokens": tokens,
        "tokens_per_s": tokens / heard.seconds,
        "itl_ms": (percentiles(heard.gaps) or {}).get("p50"),
        "latency_ms": (percentiles(heard.latencies) or {})["p50"],
        "cpu_s_per_token": own / tokens,
        "inter_token_ms": percentiles(heard.gaps),
        "first_token_ms": percentiles(heard.first_tokens),
        "request_ms": percentiles(heard.latencies),
        "server_cpu_s": round(own, 3),
        "server_cpu_s_by_process": {process: round(seconds, 3) for process, seconds in by_process.items()},
        "resting_servers_cpu_s": {name: round(seconds, 3) for name, seconds in resting.items()},
        "client_cpu_s": round(heard.client_cpu, 3),
        "others_cpu_s": round(found.others, 3),
    }
    say(f"  {workload.name} {arm}: {measured['tokens_per_s']:.1f} tokens/s")
    return measured


# --- what is told --------------------------------------------------------------------------------


def document(run: Run, stopped: str | None) -> Result:
    """The whole result; `stopped` says why it is not whole."""
    options = run.options
    found = results(run.blocks, options.arms, [w.name for w in run.workloads])
    return {
        "benchmark": "overhead",
        "partial": stopped is not None,
        "stopped": stopped,
        "where": run.where,
        "settings": {
            "model": options.model,
            "arms": options.arms,
            "pairs": options.pairs,
            "block_seconds": options.block_seconds,
            "starts": options.starts,
            "concurrency": CONCURRENCY,
            "workloads": [w._asdict() | division(run, w) for w in run.workloads],
            "options": list(OPTIONS),
            "compiled": True,
        },
        "lifted": run.lifted,
        "disturbed_blocks": disturbed(run.blocks, run.where["cores"]),
        "results": found,
        "targets": targets(options.model, found, options.pairs, options.block_seconds),
        "blocks": run.blocks,
    }


def division(run: Run, workload: Workload) -> dict[str, Any]:
    """Of a block of this workload; nothing where none was planned."""
    found = run.turns.get(workload.name)
    return {} if found is None else {"requests": found.total * CONCURRENCY, "turns": found.times}


def tell(run: Run, stopped: str | None) -> None:
    result = document(run, stopped)
    if run.options.out:
        save(run.options.out, result)
    print(card(result), end="\n\n")
    print(json.dumps(result, separators=(",", ":")))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
