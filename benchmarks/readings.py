"""What readings cost: the demo served with them against the demo with MOORING_READINGS=0.

    python benchmarks/readings.py [--load streamed|whole|both] [--pairs 20] [--block-seconds 30] [--starts 4]
                                  [--arms on,kept,off] [--short] [--out FILE]

    on      with readings, and MOORING_HISTORY=off: what the targets are about; history.py asks what keeping them costs
    kept    as always: readings, and a history that keeps them
    off     without readings

The servers are started with the same options, compiled, capped by the same profile. Then one at a time gets a block
of load (last_frames.py): a fixed number of waves, as many as keep the server without readings busy for
--block-seconds. They take turns of about 3 s, back and forth, and the blocks of one round, which answered the same
prompts, are compared as pairs. Two starts of one server can differ, so the rounds are divided among --starts starts.

    streamed   16 streams at once, of 12 to 102 tokens    tokens/s, and how much later the last frame comes
    whole      the same answers, each in one body         tokens/s

Output: a card for people, and the last line of stdout is one JSON document with every block's raw numbers, which
--out also gets, after every block. A run that is interrupted leaves what it has, marked `"partial": true`.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import last_frames
from arms import ARMS, Server, Subject, servers, start_all, stop_all, target
from last_frames import LENGTHS, Heard, Pass
from load import CannotMeasure, percentiles
from mooring_bench.blocks import Turns, orders, spread, turns
from mooring_bench.record import save, where
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE, sigterm_as_ctrl_c
from overhead import FOLDER, OPTIONS, PILOT_SECONDS, SHORT_PAIRS, SHORT_SECONDS, say, subject_for
from readings_result import FULL_PAIRS, FULL_SECONDS, LABELS, LOADS, OFF, Result, card, results, targets
from turns import Block, take_turns

STARTS: Final = 4
WARM_UP: Final = 3
"""Waves of each load before anything is measured, and of each look of the pilot."""


@dataclass
class Run:
    """What is known so far."""

    options: argparse.Namespace
    subject: Subject
    servers: dict[str, Server]
    where: dict[str, Any]
    turns: dict[str, Turns] = field(default_factory=dict)
    """Of a block of each load."""
    blocks: list[dict[str, Any]] = field(default_factory=list)


@sigterm_as_ctrl_c()
def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    run, stopped, code = prepare(options), None, 0
    try:
        measure(run)
    except KeyboardInterrupt:
        stopped, code = INTERRUPTED, INTERRUPTED_CODE
    except CannotMeasure as reason:
        stopped, code = " ".join(str(reason).split()), 2
        say(f"readings: {stopped}")
    finally:
        stop_all(run.servers)
    if run.blocks:
        tell(run, stopped)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    own = argparse.ArgumentParser(
        prog="readings.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("--load", choices=[*LOADS, "both"], default="both")
    own.add_argument("--pairs", type=int, default=FULL_PAIRS, help="rounds of one block of each server")
    own.add_argument("--block-seconds", type=float, default=FULL_SECONDS)
    own.add_argument("--starts", type=int, default=STARTS, help="of the servers, over which rounds spread")
    own.add_argument("--arms", type=_arms, default=",".join(LABELS.values()), help="off, and at least one more")
    own.add_argument("--short", action="store_true", help=f"{SHORT_PAIRS} pairs of {SHORT_SECONDS:g} s, one start")
    own.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes besides stdout")
    options = own.parse_args(arguments)
    if options.pairs < 1 or options.starts < 1 or options.block_seconds <= 0:
        own.error("--pairs, --starts and --block-seconds must be above 0")
    if options.short:
        options.pairs, options.block_seconds, options.starts = SHORT_PAIRS, SHORT_SECONDS, 1
    options.loads = LOADS if options.load == "both" else (options.load,)
    return options


def _arms(text: str) -> list[str]:
    """As arms.py calls them."""
    named = text.split(",")
    arms = [arm for arm, label in LABELS.items() if label in named]
    if OFF not in arms or len(arms) < 2 or len(arms) < len(named):
        raise argparse.ArgumentTypeError(f"name off and at least one more of {', '.join(LABELS.values())}, each once")
    return arms


def prepare(options: argparse.Namespace) -> Run:
    """Nothing has been started yet."""
    folder = FOLDER / "readings"
    subject = subject_for("demo", folder)
    return Run(options, subject, servers(subject, options.arms, OPTIONS, folder), where())


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
    """Start all, one after the other, and warm them up."""
    start_all(run.servers, backwards, say)
    for arm in run.options.arms:
        for load in run.options.loads:
            send(run, load, arm, WARM_UP, (1, LOADS.index(load)))


def plan(run: Run) -> None:
    """Find out how much work a block is."""
    run.turns |= {load: pilot(run, load) for load in run.options.loads}
    seconds = len(run.options.arms) * run.options.pairs * len(run.options.loads) * run.options.block_seconds
    say(f"measuring for about {seconds / 60:.0f} minutes ...")


def measure_round(run: Run, start: int, number: int, order: Sequence[str]) -> None:
    for load in run.options.loads:
        run.blocks += [{"start": start, **block} for block in blocks(run, load, number, order)]
        if run.options.out:
            save(run.options.out, document(run, "it is still running"))


def pilot(run: Run, load: str) -> Turns:
    """What keeps the server without readings busy for a block."""
    done, spent = 0, 0.0
    while spent < PILOT_SECONDS:
        spent += send(run, load, OFF, WARM_UP, (2, LOADS.index(load), done)).seconds
        done += WARM_UP
    return turns(run.options.block_seconds, spent / done)


def send(run: Run, load: str, arm: str, waves: int, seed: tuple[int, ...]) -> Heard:
    server = run.servers[ARMS[arm].server]
    where_to = target(arm, run.subject, server)
    try:
        return last_frames.run(Pass(where_to, waves, seed, load == "streamed", arm != OFF))
    except CannotMeasure as reason:
        server.check()
        raise CannotMeasure(f"{arm}, {load}: {reason}") from None


def blocks(run: Run, load: str, number: int, order: Sequence[str]) -> list[dict[str, Any]]:
    """Load the servers in turn."""

    def one(arm: str, waves: int, turn: int) -> Heard:
        return send(run, load, arm, waves, (3, LOADS.index(load), number, turn))

    found = take_turns(order, run.turns[load], run.servers, Heard, one)
    return [block(run, load, arm, found[arm]) | {"round": number, "place": i} for i, arm in enumerate(order)]


def block(run: Run, load: str, arm: str, found: Block[Heard]) -> dict[str, Any]:
    """The numbers of one arm."""
    heard, waves = found.heard, run.turns[load].total
    (by_process, resting), generated = found.split(arm), waves * sum(LENGTHS)
    own = sum(by_process.values())
    measured = {
        "load": load,
        "arm": arm,
        "ended": round(time.time(), 1),
        "seconds": round(heard.seconds, 4),
        "turn_seconds": [round(seconds, 4) for seconds in found.seconds],
        "answers": waves * len(LENGTHS),
        "tokens": generated,
        "lost": heard.lost,
        "tokens_per_s": generated / heard.seconds,
        "cpu_s_per_token": own / generated,
        "last_gap_ms": percentiles(heard.last_gaps),
        "gap_ms": percentiles(heard.gaps),
        "request_ms": percentiles(heard.latencies),
        "server_cpu_s": round(own, 3),
        "resting_servers_cpu_s": {name: round(seconds, 3) for name, seconds in resting.items()},
        "client_cpu_s": round(heard.client_cpu, 3),
        "others_cpu_s": round(found.others, 3),
    }
    say(f"  {load} {LABELS[arm]}: {measured['tokens_per_s']:.1f} tokens/s")
    return measured


def document(run: Run, stopped: str | None) -> Result:
    """The whole result; `stopped` says why it is not whole."""
    options = run.options
    found = results(run.blocks, options.loads)
    return {
        "benchmark": "readings",
        "partial": stopped is not None,
        "stopped": stopped,
        "where": run.where,
        "settings": {
            "model": run.subject.name,
            "pairs": options.pairs,
            "block_seconds": options.block_seconds,
            "starts": options.starts,
            "answer_tokens": list(LENGTHS),
            "waves": {load: found.total for load, found in run.turns.items()},
            "turns": {load: found.times for load, found in run.turns.items()},
            "options": list(OPTIONS),
        },
        "results": found,
        "targets": targets(found, options.pairs, options.block_seconds),
        "blocks": run.blocks,
    }


def tell(run: Run, stopped: str | None) -> None:
    result = document(run, stopped)
    if run.options.out:
        save(run.options.out, result)
    print(card(result), end="\n\n")
    print(json.dumps(result, separators=(",", ":")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
