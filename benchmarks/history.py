"""What keeping every turn costs: the event loop under 5,000 turns a second, and answers with a history and without.

    python benchmarks/history.py feed [--rate 5000] [--seconds 20] [--postgres URL] [--out FILE]
    python benchmarks/history.py answers [--model qwen3-tiny-shape|demo] [--pairs 20] [--block-seconds 30] [--starts 4]
                                         [--out FILE]

    feed       one process feeds synthetic records to a writer from its event loop, which also asks every millisecond
               how late it is woken. `nothing` makes the records and drops them: what the loop is late by itself
    answers    a model served twice, with a history and with MOORING_HISTORY=off, asked in turns of about 3 s (ABBA);
               the blocks of a round answer the same prompts. `alone`: one answer of two tokens after the other, so
               that p99 is not how long answers wait for each other; `together`: last_frames.py's waves of 16.
               What a turn costs is the same for every model, and is seen best where the model's own time varies
               least: that of stand_in.py's smallest shape does by a fraction of the demo's

Output: the last line of stdout is one JSON document; --out keeps it beside what the other command has put there.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from prometheus_client import REGISTRY

import last_frames
from arms import ARMS, Server, Subject, servers, start_all, stop_all, target
from last_frames import LENGTHS, Heard, Pass
from mooring_bench.blocks import Turns, interval, orders, spread, turns
from mooring_bench.paired import percentiles
from mooring_bench.record import save, where
from mooring_server.history.location import open_store
from mooring_server.history.writer import Writer
from mooring_server.record import Record, Sink
from overhead import FOLDER, OPTIONS, PILOT_SECONDS, say, subject_for
from turns import Block, take_turns

RATE, SECONDS = 5000, 20.0
LOST_WANTED: Final = 0
LATE_WANTED: Final = 1.0
"""ms."""
ADDED_WANTED: Final = 1.0
"""ms."""
PERCENTILES: Final = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
ROWS: Final = "mooring_history_rows_total"
TICK: Final = 0.001
"""Seconds between two looks at the loop."""
SESSIONS: Final = 2000
LAYERS: Final = {layer: (11.5 + layer / 7, 0.25, 0.5) for layer in range(8)}
KEPT, UNKEPT = "default", "unkept"
RESAMPLES: Final = 2000
WARM_UP: Final = 3
PILOT: Final = 6
"""Waves."""
LOADS: Final = {"alone": (2,), "together": LENGTHS}
"""Tokens of the answers of a wave. Alone, the fewest that are measured: a turn costs history the same however long it
took."""


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    found = {"where": where(), **(feed(options) if options.command == "feed" else answers(options))}
    document: dict[str, Any] = {"benchmark": "history"}
    if options.out and options.out.exists():
        document |= json.loads(options.out.read_text())
    document[options.command] = found
    if options.out:
        save(options.out, document)
    print(json.dumps(found, separators=(",", ":")))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    own = argparse.ArgumentParser(
        prog="history.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    own.add_argument("command", choices=["feed", "answers"])
    own.add_argument("--rate", type=int, default=RATE, help="turns a second")
    own.add_argument("--seconds", type=float, default=SECONDS)
    own.add_argument("--postgres", metavar="URL", help="feed this database too")
    own.add_argument("--model", choices=["qwen3-tiny-shape", "demo"], default="qwen3-tiny-shape", help="of answers")
    own.add_argument("--load", choices=[*LOADS, "both"], default="both")
    own.add_argument("--pairs", type=int, default=20)
    own.add_argument("--block-seconds", type=float, default=30.0)
    own.add_argument("--starts", type=int, default=4)
    own.add_argument("--out", type=Path, metavar="FILE")
    options = own.parse_args(arguments)
    options.loads = tuple(LOADS) if options.load == "both" else (options.load,)
    return options


# --- feed ----------------------------------------------------------------------------------------


def feed(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        found = {"nothing": asyncio.run(feed_one(lambda record: None, options.rate, options.seconds))}
        for name, location in {"sqlite": f"{folder}/history.sqlite", "postgres": options.postgres}.items():
            if location:
                say(f"feeding {name} ...")
                found[name] = feed_store(location, options)
    return {"rate": options.rate, "seconds": options.seconds, "fed": found, "targets": feed_targets(found)}


def feed_targets(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each held against what was measured."""
    fed = [(name, one) for name, one in found.items() if name != "nothing"]
    return [
        *(target_of(f"{name}: turns lost", one["lost"], LOST_WANTED) for name, one in fed),
        *(target_of(f"{name}: ms the loop was late, p99", one["late_ms"]["p99"], LATE_WANTED) for name, one in fed),
    ]


def target_of(what: str, measured: float | None, wanted: float) -> dict[str, Any]:
    met = None if measured is None else measured <= wanted
    return {"what": what, "wanted": f"<= {wanted}", "measured": measured, "met": met}


def feed_store(location: str, options: argparse.Namespace) -> dict[str, Any]:
    store = open_store(location)
    assert store is not None
    before, writer = REGISTRY.get_sample_value(ROWS) or 0.0, Writer(store)
    found = asyncio.run(feed_one(writer.put, options.rate, options.seconds, writer.waiting))
    writer.stop(60)
    acknowledged = int((REGISTRY.get_sample_value(ROWS) or 0.0) - before)
    with closing(store.connect(readonly=True)) as connection:
        (kept,) = connection.execute("SELECT COUNT(DISTINCT number) FROM mooring_turns").fetchall()[0]
    return found | {"acknowledged": acknowledged, "kept": kept, "lost": found["turns"] - kept}


async def feed_one(sink: Sink, rate: int, seconds: float, waiting: Callable[[], int] = lambda: 0) -> dict[str, Any]:
    """At every tick the records that are due; how late the ticks came."""
    late: list[float] = []
    sent, most, cpu, began = 0, 0, time.process_time(), time.perf_counter()
    while (now := time.perf_counter() - began) < seconds:
        for _ in range(int(now * rate) - sent):
            sink(synthetic(sent := sent + 1))
        most = max(most, waiting())
        asleep = time.perf_counter()
        await asyncio.sleep(TICK)
        late.append(time.perf_counter() - asleep - TICK)
    return {
        "turns": sent,
        "turns_per_s": round(sent / seconds, 1),
        "late_ms": by_percentile(np.array(late) * 1e3),
        "ticks": len(late),
        "waiting_at_most": most,
        "cpu_s": round(time.process_time() - cpu, 2),
    }


def by_percentile(values: npt.ArrayLike) -> dict[str, float]:
    found = np.percentile(values, list(PERCENTILES.values()))
    return {name: round(float(value), 3) for name, value in zip(PERCENTILES, found, strict=True)}


def synthetic(number: int) -> Record:
    """One of many conversations that go on side by side."""
    session, turn = number % SESSIONS, number // SESSIONS + 1
    return Record(
        at=time.time(),
        response=f"chatcmpl-{number:032x}",
        choice=0,
        route="chat",
        model="synthetic",
        profile="strong" if session % 2 else "off",
        arm="none",
        session=f"derived-{session:032x}",
        identity="derived",
        turn=turn,
        node=f"{number:032x}",
        parent=f"{number - SESSIONS:032x}" if turn > 1 else "",
        tokens=128,
        measured_tokens=127,
        lifted_tokens=number % 128,
        projection=10.0 + number % 7 / 3,
        drift=number % 100 / 90,
        mean_lift=number % 11 / 9,
        complete=True,
        finished=True,
        layers=LAYERS,
    )


# --- answers -------------------------------------------------------------------------------------


def answers(options: argparse.Namespace) -> dict[str, Any]:
    subject = subject_for(options.model, FOLDER / f"history-{options.model}")
    both = servers(subject, (KEPT, UNKEPT), OPTIONS, subject.profiles)
    asked, blocks, division = Asked(both, subject), [], {}
    try:
        for start, rounds in enumerate(spread(orders((KEPT, UNKEPT), options.pairs), options.starts)):
            start_all(both, start % 2 == 1, say)
            for arm, load in product((KEPT, UNKEPT), options.loads):
                asked.send(load, arm, WARM_UP, 1)
            division = division or {load: pilot(asked, load, options.block_seconds) for load in options.loads}
            for (number, order), load in product(rounds, options.loads):
                blocks += [b | {"start": start} for b in blocks_of(asked, load, division[load], number, order)]
            stop_all(both)
    finally:
        stop_all(both)
    found = {load: compared([b for b in blocks if b["load"] == load]) for load in options.loads}
    return {
        "model": options.model,
        "pairs": options.pairs,
        "block_seconds": options.block_seconds,
        "waves": {load: turns.total for load, turns in division.items()},
        "turns": {load: turns.times for load, turns in division.items()},
        "answer_tokens": {load: LOADS[load] for load in options.loads},
        "readings_lost": sum(b["lost"] for b in blocks),
        "added_ms": found,
        "targets": [added_target(f"{load}: ms added to an answer's p99", one["p99"]) for load, one in found.items()],
        "blocks": [b | {"request_ms": by_percentile(b["request_ms"])} for b in blocks],
    }


class Asked(NamedTuple):
    """Both servers, and what they serve."""

    servers: Mapping[str, Server]
    subject: Subject

    def send(self, load: str, arm: str, waves: int, *seed: int) -> Heard:
        where_to = target(arm, self.subject, self.servers[ARMS[arm].server])
        return last_frames.run(Pass(where_to, waves, seed, streamed=True, measured=True, lengths=LOADS[load]))


def pilot(asked: Asked, load: str, seconds: float) -> Turns:
    """What keeps a server busy for a block."""
    done, spent = 0, 0.0
    while spent < PILOT_SECONDS:
        spent += asked.send(load, UNKEPT, PILOT, 2, done).seconds
        done += PILOT
    return turns(seconds, spent / done)


def blocks_of(asked: Asked, load: str, division: Turns, number: int, order: Sequence[str]) -> list[dict[str, Any]]:
    """Of a round."""

    def one(arm: str, waves: int, turn: int) -> Heard:
        return asked.send(load, arm, waves, 3, number, turn)

    found = take_turns(order, division, asked.servers, Heard, one)
    say(f"  {load}, round {number + 1}")
    return [{"load": load, "round": number, "arm": arm, **told(found[arm])} for arm in order]


def told(block: Block[Heard]) -> dict[str, Any]:
    return {
        "seconds": round(block.heard.seconds, 3),
        "answers": len(block.heard.latencies),
        "lost": block.heard.lost,
        "others_cpu_s": round(block.others, 3),
        "request_ms": [seconds * 1e3 for seconds in block.heard.latencies],
    }


# --- what is compared ----------------------------------------------------------------------------


def compared(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How much longer answers take with a history, in ms, by percentile."""
    kept, unkept = ({b["round"]: b["request_ms"] for b in blocks if b["arm"] == arm} for arm in (KEPT, UNKEPT))
    start = {b["round"]: b["start"] for b in blocks}
    pairs = [(start[r], kept[r], unkept[r]) for r in sorted(kept)]
    twice = [r for r in sorted(unkept) if r % 2 == 0 and start.get(r + 1) == start[r]]
    itself = [(start[r], unkept[r + 1], unkept[r]) for r in twice]
    return {p: added(pairs, PERCENTILES[p]) | {"null": added(itself, PERCENTILES[p])} for p in ("p50", "p99")}


def added_target(what: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Met or missed only where the whole interval says so, and the same server does not differ from itself."""
    low, high, itself = found["low"], found["high"], found["null"]
    told = None not in (low, itself["low"]) and itself["low"] <= 0 <= itself["high"]
    met = None if not told else True if high <= ADDED_WANTED else False if low > ADDED_WANTED else None
    measured = {key: found[key] for key in ("added", "low", "high")}
    return {"what": what, "wanted": f"<= {ADDED_WANTED}", "measured": measured, "met": met}


def added(
    pairs: Sequence[tuple[int, Sequence[float], Sequence[float]]], percentile: float, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The percentile of all answers of the second place minus that of the third, with an interval over the rounds.

    Pairs are (start, times, times) of a round. A block holds too few answers for a p99 of its own, so the answers of
    all rounds are pooled; the interval is Student's t of what each start comes to, or of one start a bootstrap of its
    rounds (mooring_bench/blocks.py says why).
    """
    starts = [[(one, other) for of, one, other in pairs if of == start] for start in sorted({p[0] for p in pairs})]

    def difference(of: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
        one, other = (np.percentile(np.concatenate(times), percentile) for times in zip(*of, strict=True))
        return float(one - other)

    found = {"added": difference([pair for part in starts for pair in part]), "rounds": len(pairs)}
    if len(starts) > 1:
        low, high = interval(np.array([difference(part) for part in starts])) or (None, None)
    elif len(pairs) > 1:
        rng, (part,) = np.random.default_rng(0), starts
        drawn = [difference([part[i] for i in rng.integers(0, len(part), len(part))]) for _ in range(resamples)]
        low, high = map(float, np.percentile(drawn, percentiles(len(part))))
    else:
        low = high = None
    return found | {"low": low, "high": high}


if __name__ == "__main__":
    main(sys.argv[1:])
