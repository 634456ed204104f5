"""What capping costs: the arms of one server in turn, beside other servers such as stock vLLM.

    mooring bench load URL [--arms off,default] [--stock URL] [--also NAME=URL] [--concurrency 1,8,32] [--out FILE.json]
    mooring bench load URL --workload talks [--talks FILE.jsonl]     conversations, with the server's own answers
    mooring bench load URL --workload sharegpt --sharegpt FILE       one turn each, of ShareGPT's lengths
    mooring bench load URL --mode mixed                              all arms of URL in one batch, as in service

An arm is a profile, `default` that of requests which name none, `stock` the server of --stock, and NAME a further
server as it treats requests that name no profile, one with other options or another model. With --mode blocks one arm
is in flight at a time: in one batch the arms would pay for each other, and look alike. A round has one block per arm
and rung of concurrency, in the order of blocks.py (two arms: ABBA), and asks the same of every arm. How much a block
asks is found out before, so that the first arm takes --block-seconds. A warm-up of every arm and rung is thrown away.
Every block has prompts and a `cache_salt` of its own, so that no arm finds in the prefix cache what another arm or an
earlier block has left there; within a block, talks find what they have said. The first arm is the baseline: ratios are
arm / baseline of one round, and the null is the baseline against itself in neighbouring rounds. blocks.py says how
intervals are made. Where there are several servers, --rest-seconds pass before every block, until the last has come to
rest.

OPENAI_API_KEY is sent to URL if it is set, MOORING_STOCK_API_KEY to the server of --stock, and MOORING_NAME_API_KEY to
that of --also NAME=URL.

Output: a card for people, then the very last line of stdout is one JSON document with every block. --out writes the
document, and a page with plots beside it with the ending .html.

Exit code 0: measured to the end. 1 or 130: a server went away, or somebody pressed Ctrl-C or sent SIGTERM; what was
measured until then is written and marked "partial". 2: something to put right first.
"""

import argparse
import json
import secrets
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from mooring_bench.arms import Arm, cached_tokens, find, identity_of, tokenizer_of
from mooring_bench.blocks import REST_SECONDS, orders
from mooring_bench.demo_sets import SEED
from mooring_bench.heard import Heard
from mooring_bench.load_page import page
from mooring_bench.load_result import card, compared
from mooring_bench.options import check_writable, count, ladder, named_url, names, not_negative, seconds, stock_url
from mooring_bench.prompts import CannotMeasure
from mooring_bench.record import save, where
from mooring_bench.sources import prompts_of, usual
from mooring_bench.stock_client import OneTurn
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE, sigterm_as_ctrl_c
from mooring_bench.talks import Talks

BLOCKS, MIXED = "blocks", "mixed"
PILOT_SECONDS: Final = 3.0
GONE: Final = "a server went away"


class Load(Protocol):
    """What is sent; what has one salt may share a prefix cache."""

    def send(self, arm: Arm, requests: int, concurrency: int, seed: int, salt: str) -> Heard: ...
    def send_mixed(self, arms: Sequence[Arm], requests: int, concurrency: int, seed: int, salt: str) -> list[Heard]: ...


@dataclass
class Run:
    """What is known so far."""

    options: argparse.Namespace
    arms: Sequence[Arm]
    load: Load
    where: dict[str, Any]
    requests: dict[int, int] = field(default_factory=dict)
    """Rung -> requests of a block; of each arm, where they are mixed."""
    blocks: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    """Of this run among all that a server has seen."""

    @property
    def rest_seconds(self) -> float:
        """Before every block, until the server of the last one has come to rest, if it may be another."""
        return float(self.options.rest_seconds) if len({arm.base for arm in self.arms}) > 1 else 0.0

    def seed(self, what: str, rung: int, number: int) -> int:
        """Of the prompts of one block: the same for every arm, and for no other block."""
        return zlib.crc32(f"{self.options.seed} {what} {rung} {number}".encode())

    def salt(self, what: str, rung: int, number: int, arm: str) -> str:
        return f"{self.name} {zlib.crc32(f'{what} {rung} {number} {arm}'.encode()):08x}"


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    try:
        with sigterm_as_ctrl_c():
            return _main(options)
    except CannotMeasure as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED_CODE


def _main(options: argparse.Namespace) -> int:
    run = prepare(options)
    try:
        measure(run)
    except KeyboardInterrupt:
        run.stopped = INTERRUPTED
    except CannotMeasure as error:
        run.stopped = str(error)
    publish(run)
    return INTERRUPTED_CODE if run.stopped == INTERRUPTED else 1 if run.stopped else 0


def parser() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(
        prog="mooring bench load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("url", metavar="URL", help="of the server: http://HOST:PORT")
    own.add_argument("--arms", type=names, metavar="A,B", help="profiles; the first is the baseline (off,default)")
    others: dict[str, Any] = {"action": "append", "dest": "others", "default": []}
    own.add_argument("--also", type=named_url, metavar="NAME=URL", help="any server, as one more arm", **others)
    own.add_argument("--stock", type=stock_url, metavar="URL", help="likewise, a server without Mooring", **others)
    own.add_argument("--mode", choices=[BLOCKS, MIXED], default=BLOCKS)
    own.add_argument("--pairs", type=count, default=12, metavar="N", help="rounds (%(default)s)")
    own.add_argument("--block-seconds", type=seconds, default=30.0, metavar="S", help="(%(default)s)")
    own.add_argument("--rest-seconds", type=not_negative, default=REST_SECONDS, metavar="S", help="(%(default)s)")
    own.add_argument("--concurrency", type=ladder, default="1,8,32", metavar="A,B", help="rungs (%(default)s)")
    own.add_argument("--workload", choices=["random", "talks", "sharegpt"], default="random")
    own.add_argument("--input-tokens", type=count, default=128, metavar="N", help="of a random prompt (%(default)s)")
    own.add_argument("--output-tokens", type=count, default=64, metavar="N", help="of an answer (%(default)s)")
    own.add_argument("--talks", metavar="demo|general|FILE", help="JSONL as of `bench quality`; else its own")
    own.add_argument("--sharegpt", metavar="FILE", help="of --workload sharegpt")
    own.add_argument("--model", help="name of the model; without it, the first that the server lists")
    own.add_argument("--tokenizer", metavar="PATH|NAME", help="that makes prompts; without it, the served model's")
    own.add_argument("--seed", type=int, default=SEED, help="of the prompts (%(default)s)")
    own.add_argument("--note", metavar="TEXT", help="how the servers were started; kept with the result")
    own.add_argument("--out", type=Path, metavar="FILE", help="write the JSON document there, and a page beside it")
    return own


# --- before the clock starts ---------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> Run:
    """Find the arms and make what is sent; CannotMeasure for what has to be put right."""
    check_writable(options.out)
    arms = find(options.url, options.arms, options.others, options.model)
    if options.mode == MIXED and (len(arms) < 2 or options.others):
        raise CannotMeasure("a mixed load needs two arms of one server at least, and no other server")
    return Run(options, arms, _load(options, arms[0]), where())


def _load(options: argparse.Namespace, arm: Arm) -> Load:
    if options.workload == "talks":
        options.talks = options.talks or usual(identity_of(arm))
        prompts = prompts_of([options.talks], options.seed)
        several = [prompt for prompt in prompts if sum(1 for _ in prompt.turns()) > 1]
        if not several:
            raise CannotMeasure(f"{options.talks} holds no talk of several turns")
        return Talks(several, options.output_tokens)
    if (options.workload == "sharegpt") != (options.sharegpt is not None):
        raise CannotMeasure("--workload sharegpt and --sharegpt FILE belong together")
    tokenizer = tokenizer_of(arm, options.tokenizer)
    return OneTurn(tokenizer, options.input_tokens, options.output_tokens, options.sharegpt)


# --- measuring -----------------------------------------------------------------------------------


def measure(run: Run) -> None:
    options = run.options
    for rung in options.concurrency:
        for number, arm in enumerate(run.arms):
            warm_up(run, arm, rung, number)
        run.requests[rung] = _size(run, rung)
    expected = options.pairs * options.block_seconds * len(run.arms) * len(options.concurrency)
    say(f"measuring for about {expected / 60:.0f} minutes ...")
    for number, order in enumerate(orders([arm.name for arm in run.arms], options.pairs)):
        for rung in options.concurrency:
            (mixed if options.mode == MIXED else in_turn)(run, number, rung, order)


def warm_up(run: Run, arm: Arm, rung: int, number: int) -> None:
    """Two waves that are thrown away; an arm without a single success could not be measured."""
    own = run.seed("warm-up", rung, number), run.salt("warm-up", rung, number, arm.name)
    heard = run.load.send(arm, 2 * rung, rung, *own)
    if not heard.whole:
        reason = heard.errors[0] if heard.errors else "nothing came back"
        raise CannotMeasure(f"no request of arm {arm.name!r} succeeds: {reason}")


def _size(run: Run, rung: int) -> int:
    """Requests that keep the baseline busy for a block, in whole waves."""
    asked, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < min(PILOT_SECONDS, run.options.block_seconds):
        own = run.seed("pilot", rung, asked), run.salt("pilot", rung, asked, run.arms[0].name)
        heard = run.load.send(run.arms[0], 2 * rung, rung, *own)
        if not heard.whole:
            raise CannotMeasure(f"{GONE}: no request of arm {run.arms[0].name!r} succeeds any more: {heard.errors[:1]}")
        asked += 2 * rung
    wanted = asked * float(run.options.block_seconds) / spent / (len(run.arms) if run.options.mode == MIXED else 1)
    return max(rung * round(wanted / rung), rung)


def in_turn(run: Run, number: int, rung: int, order: Sequence[str]) -> None:
    """One block per arm, one after the other."""
    arms = {arm.name: arm for arm in run.arms}
    for place, name in enumerate(order):
        time.sleep(run.rest_seconds)
        before = cached_tokens(arms[name])
        own = run.seed("round", rung, number), run.salt("round", rung, number, name)
        heard = run.load.send(arms[name], run.requests[rung], rung, *own)
        after = cached_tokens(arms[name])
        cached = None if after is None or before is None else round(after - before)
        note(run, name, number, rung, place, heard, cached)


def mixed(run: Run, number: int, rung: int, order: Sequence[str]) -> None:
    """All arms in one batch; their order says who is asked first."""
    arms = sorted(run.arms, key=lambda arm: order.index(arm.name))
    own = run.seed("round", rung, number), run.salt("round", rung, number, MIXED)
    found = run.load.send_mixed(arms, run.requests[rung], rung, *own)
    for place, (arm, heard) in enumerate(zip(arms, found, strict=True)):
        note(run, arm.name, number, rung, place, heard, None)


def note(run: Run, name: str, number: int, rung: int, place: int, heard: Heard, cached: int | None) -> None:
    told = heard.told()
    head = {"arm": name, "round": number, "concurrency": rung, "place": place, "ended": round(time.time(), 1)}
    run.blocks.append(head | told | {"cached_tokens": cached})
    speed = "no success" if told["tokens_per_s"] is None else f"{told['tokens_per_s']:.1f} tokens/s"
    failed = f", {told['failed']} failed: {told['errors'][0]}" if told["failed"] else ""
    say(f"  {number + 1}/{run.options.pairs}, {rung} at a time, {name}: {speed}{failed}")
    if run.options.out is not None:
        save(run.options.out, document(run, "it is still running", {}))
    if not heard.whole and len(run.blocks) > 1 and not run.blocks[-2]["succeeded"]:
        raise CannotMeasure(f"{GONE}: two blocks in a row had no success ({told['errors'][:1]})")


# --- what is told --------------------------------------------------------------------------------


def document(run: Run, stopped: str | None, results: dict[str, Any]) -> dict[str, Any]:
    """The whole result; `stopped` says why it is not whole."""
    options = run.options
    return {
        "benchmark": "load",
        "partial": stopped is not None,
        "stopped": stopped,
        "where": run.where,
        "note": options.note,
        "arms": [{"name": a.name, "server": a.base, "model": a.model, "profile": a.profile} for a in run.arms],
        "settings": {
            "mode": options.mode,
            "workload": options.workload,
            "talks": options.talks and Path(options.talks).name,
            "pairs": options.pairs,
            "block_seconds": options.block_seconds,
            "rest_seconds": run.rest_seconds,
            "concurrency": options.concurrency,
            "requests": run.requests,
            "input_tokens": options.input_tokens,
            "output_tokens": options.output_tokens,
            "seed": options.seed,
        },
        "results": results,
        "blocks": run.blocks,
    }


def publish(run: Run) -> None:
    results = compared(run.blocks, [arm.name for arm in run.arms], run.options.concurrency)
    result = document(run, run.stopped, results)
    if run.options.out is not None:
        save(run.options.out, result)
        run.options.out.with_suffix(".html").write_text(page(result), encoding="utf-8")
    print(card(result), end="\n\n")
    print(json.dumps(result, separators=(",", ":")), flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
