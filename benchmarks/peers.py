"""Mooring beside two other ways to cap, in one run: transformers with forward hooks, and vLLM with eager hooks.

    python benchmarks/peers.py [--model demo|qwen3-0.6b-shape] [--pairs 8] [--requests 16] [--tokens 64] [--out FILE]

    transformers   one batch through `generate`, a forward hook at every capped layer: what the paper's script does
    vllm-hooks     vLLM with enforce_eager and a forward hook at every capped layer that caps each request's rows by
                   themselves: what one writes who wants a profile per request and has no kernel
    mooring        mooring_server.offline.LLM: compiled, capped in the graph, every request with a reading
    vllm           stock vLLM, compiled, capping nothing: the roof

Each runs in a process of its own (peer.py) that is started once and told when its turn is; a turn is the same prompts
and the same number of tokens for all. Rounds go in the order of mooring_bench/blocks.py. A ratio is a peer's tokens/s
over Mooring's in the same round.

Output: a card, and the last line of stdout is one JSON document, which --out also gets.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mooring_bench.blocks import estimate, null, orders, paired, rounded
from mooring_bench.record import ROOT, save, where

PEERS: Final = ("mooring", "vllm", "vllm-hooks", "transformers")
BASELINE: Final = "mooring"
FOLDER: Final = ROOT / ".build" / "benchmarks"
READY: Final = "ready"


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
        print(json.dumps({"seed": seed, "requests": requests, "tokens": tokens}), file=self._process.stdin, flush=True)
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
        raise SystemExit(f"peers: {self.name} stopped; see {self._log.name}")


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    folder = prepare(options.model)
    blocks: list[dict[str, Any]] = []
    peers: dict[str, Peer] = {}
    stopped: str | None = None
    try:
        for name in options.peers:
            say(f"starting {name} ...")
            peers[name] = Peer(name, options.model, folder)
            peers[name].wait()
            peers[name].run(0, options.requests, options.tokens)  # compiles, and is thrown away
        for number, order in enumerate(orders(options.peers, options.pairs)):
            for name in order:
                found = peers[name].run(number + 1, options.requests, options.tokens)
                speed = options.requests * options.tokens / found["seconds"]
                blocks.append({"arm": name, "round": number, "tokens_per_s": speed, **found})
                say(f"  {number + 1}/{options.pairs} {name}: {speed:.1f} tokens/s")
    except KeyboardInterrupt:
        stopped = "interrupted"
    finally:
        for peer in peers.values():
            peer.stop()
    result = document(options, blocks, stopped)
    if options.out:
        save(options.out, result)
    print(card(result), end="\n\n")
    print(json.dumps(result, separators=(",", ":")))


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
    options: argparse.Namespace, blocks: Sequence[Mapping[str, Any]], stopped: str | None = None
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
        "blocks": list(blocks),
    }  # fmt: skip


def card(result: Mapping[str, Any]) -> str:
    settings, where = result["settings"], result["where"]
    baseline = next(iter(result["ratios"]))
    lines = [
        f"# Ways to cap {settings['model']}: {settings['requests']} requests of {settings['tokens']} tokens at once",
        "",
        f"{where['cores']} cores of {where['processor']}, {where['date']}, commit {where['commit']}, "
        f"{settings['pairs']} rounds{', PARTIAL: ' + result['stopped'] if result['partial'] else ''}.",
        "",
        f"| way | tokens/s | over {baseline} (95 %) |",
        "|---|---|---|",
    ]
    for name, ratio in result["ratios"].items():
        speed = result["tokens_per_s"][name]
        interval = "-" if ratio["low"] is None else f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        null_too = ", itself against itself" if name == baseline else ""
        lines.append(f"| {name} | {'-' if speed is None else f'{speed:.0f}'} | {interval}{null_too} |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
