"""Mooring beside two other ways to cap, in one run: transformers with forward hooks, and vLLM with eager hooks.

    python benchmarks/peers.py [--model demo|qwen3-0.6b-shape] [--pairs 8] [--requests 16] [--tokens 64] [--out FILE]

    transformers   one batch through `generate`, a forward hook at every capped layer: what the paper's script does
    vllm-hooks     vLLM with enforce_eager and a forward hook at every capped layer that caps each request's rows by
                   themselves: what one writes who wants a profile per request and has no kernel
    mooring        mooring_server.offline.LLM: compiled, capped in the graph, every request with a reading
    vllm           stock vLLM, compiled, capping nothing: the roof

Each runs in a process of its own (peer.py) that is started once and told when its turn is, when the last has come to
rest; a turn is the same prompts and the same number of tokens for all. Rounds go in the order of
mooring_bench/blocks.py. A ratio is a peer's tokens/s over Mooring's in the same round.

Whether the ways do the same work is told by their tokens: the share of each answer's that stand before the first at
which two ways part. Greedy answers part where two tokens are nearly as likely and arithmetic is ordered otherwise; ways
that cap should agree for longer with each other than with stock vLLM.

Output: a card, and the last line of stdout is one JSON document, which --out also gets, and after every round what
there is. A peer that stops is left out from then on, and the result marked partial. Exit code 1 then, 130 after Ctrl-C
or SIGTERM.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from pathlib import Path
from typing import Any, Final

from mooring_bench.blocks import REST_SECONDS, estimate, null, orders, paired, rounded
from mooring_bench.record import ROOT, machine, save, where
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE, sigterm_as_ctrl_c

PEERS: Final = ("mooring", "vllm", "vllm-hooks", "transformers")
STOCK: Final = "vllm"
FOLDER: Final = ROOT / ".build" / "benchmarks"
READY: Final = "ready"
Answers = Sequence[Sequence[int]]
Agreed = dict[tuple[str, str], list[float]]
"""Two peers -> by round, the share of tokens before their answers part."""


class PeerGone(Exception):
    """A peer's process has ended."""


class Peer:
    """A process that runs one batch when it is told to."""

    def __init__(self, name: str, model: str, folder: Path) -> None:
        self.name = name
        script = Path(__file__).with_name("peer.py")
        self._log = (folder / f"peer-{name}.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(script), name, model, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        self._answer(READY)

    def run(self, seed: int, requests: int, tokens: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        asked = json.dumps({"seed": seed, "requests": requests, "tokens": tokens})
        with contextlib.suppress(BrokenPipeError):  # then no answer comes either
            print(asked, file=self._process.stdin, flush=True)
        return self._answer("seconds")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its engine has processes of its own
        self._process.wait()
        self._log.close()

    def _answer(self, key: str) -> dict[str, Any]:
        """The next line that is ours: libraries print to stdout too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                if key in found:
                    return found
        raise PeerGone(f"{self.name} stopped; see {Path(self._log.name).name}")


@dataclass
class Run:
    """What is known so far."""

    options: argparse.Namespace
    blocks: list[dict[str, Any]] = field(default_factory=list)
    agreed: Agreed = field(default_factory=lambda: defaultdict(list))
    stopped: str | None = None


def main(arguments: Sequence[str]) -> int:
    run = Run(parse(arguments))
    folder = prepare(run.options.model)
    peers: dict[str, Peer] = {}
    try:
        with sigterm_as_ctrl_c():
            measure(run, peers, folder)
    except KeyboardInterrupt:
        run.stopped = INTERRUPTED
    finally:
        for peer in peers.values():
            peer.stop()
    result = document(run.options, run.blocks, run.agreed, run.stopped)
    if run.options.out:
        save(run.options.out, result)
    print(card(result), end="\n\n")
    print(json.dumps(result, separators=(",", ":")))
    return INTERRUPTED_CODE if run.stopped == INTERRUPTED else 1 if run.stopped else 0


def measure(run: Run, peers: dict[str, Peer], folder: Path) -> None:
    """Rounds of those that run; one that stops is left out from then on."""
    options = run.options
    for name in options.peers:
        say(f"starting {name} ...")
        peers[name] = Peer(name, options.model, folder)
        with surviving(run, peers, name):
            peers[name].wait()
            peers[name].run(0, options.requests, options.tokens)  # compiles, and is thrown away
    for number, order in enumerate(orders(options.peers, options.pairs)):
        answers = {}
        for name in [name for name in order if name in peers]:
            with surviving(run, peers, name):
                answers[name] = one_block(run, peers[name], number)
        for one, other in itertools.permutations(answers, 2):
            run.agreed[one, other].append(leading(answers[one], answers[other]))
        if options.out:
            save(options.out, document(options, run.blocks, run.agreed, "it is still running"))


@contextlib.contextmanager
def surviving(run: Run, peers: dict[str, Peer], name: str) -> Iterator[None]:
    """Go on with the others where one stops."""
    try:
        yield
    except PeerGone as gone:
        say(f"peers: {gone}")
        run.stopped = str(gone)
        peers.pop(name).stop()


def one_block(run: Run, peer: Peer, number: int) -> Answers:
    options = run.options
    time.sleep(REST_SECONDS)
    found = peer.run(number + 1, options.requests, options.tokens)
    speed = options.requests * options.tokens / found["seconds"]
    run.blocks.append({"arm": peer.name, "round": number, "tokens_per_s": speed, "seconds": found["seconds"]})
    say(f"  {number + 1}/{options.pairs} {peer.name}: {speed:.1f} tokens/s")
    answers: Answers = found["answers"]
    return answers


def leading(one: Answers, other: Answers) -> float:
    """Share of tokens before the first at which two answers part."""
    same = [sum(itertools.takewhile(bool, map(eq, a, b))) / len(a) for a, b in zip(one, other, strict=True)]
    return sum(same) / len(same)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    own = argparse.ArgumentParser(
        prog="peers.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    own.add_argument("--model", choices=["demo", "qwen3-0.6b-shape"], default="demo")
    own.add_argument("--peers", type=_names, default=",".join(PEERS), help="the first is the baseline (%(default)s)")
    own.add_argument("--pairs", type=int, default=8)
    own.add_argument("--requests", type=int, default=16)
    own.add_argument("--tokens", type=int, default=64)
    own.add_argument("--out", type=Path, metavar="FILE")
    return own.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"there is no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    return names


def prepare(model: str) -> Path:
    """The folder of what is measured; a stand-in model is made where there is none."""
    from overhead import make_stand_in

    folder = FOLDER / model
    folder.mkdir(parents=True, exist_ok=True)
    if model != "demo":
        make_stand_in(model, folder)
    return folder


def document(
    options: argparse.Namespace, blocks: Sequence[Mapping[str, Any]], agreed: Agreed, stopped: str | None = None
) -> dict[str, Any]:
    baseline = options.peers[0]
    return {
        "benchmark": "peers",
        "partial": stopped is not None,
        "stopped": stopped,
        "where": where(),
        "settings": {
            "model": options.model, "pairs": options.pairs, "requests": options.requests, "tokens": options.tokens,
        },
        "tokens_per_s": {name: rounded(estimate([b["tokens_per_s"] for b in blocks if b["arm"] == name]))["median"]
                         for name in options.peers},
        "ratios": {
            name: rounded(estimate(
                null(blocks, name, "tokens_per_s") if name == baseline
                else paired(blocks, name, baseline, "tokens_per_s")
            ))
            for name in options.peers
        },
        "agreement": {
            name: {other: round(sum(found) / len(found), 4) for (one, other), found in agreed.items() if one == name}
            for name in options.peers
        },
        "blocks": list(blocks),
    }  # fmt: skip


def card(result: Mapping[str, Any]) -> str:
    settings, where = result["settings"], result["where"]
    baseline = next(iter(result["ratios"]))
    lines = [
        f"# Ways to cap {settings['model']}: {settings['requests']} requests of {settings['tokens']} tokens at once",
        "",
        f"{machine(where)}, {where['date']}, commit {where['commit']}, "
        f"{settings['pairs']} rounds{', PARTIAL: ' + result['stopped'] if result['partial'] else ''}.",
        "",
        f"| way | tokens/s | over {baseline} (95 %) | tokens as {baseline}'s | as {STOCK}'s |",
        "|---|---|---|---|---|",
    ]
    for name, ratio in result["ratios"].items():
        speed = result["tokens_per_s"][name]
        interval = "-" if ratio["low"] is None else f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        null_too = ", itself against itself" if name == baseline else ""
        alike = " | ".join(_alike(result["agreement"], name, other) for other in (baseline, STOCK))
        lines.append(f"| {name} | {'-' if speed is None else f'{speed:.0f}'} | {interval}{null_too} | {alike} |")
    return "\n".join(lines)


def _alike(agreement: Mapping[str, Mapping[str, float]], name: str, other: str) -> str:
    share = agreement.get(name, {}).get(other)
    return "-" if share is None else f"{share:.2f}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
