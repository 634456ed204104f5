"""A short version of every comparison, on the demo model: `make bench`, in under 15 minutes on two cores.

    cost      `mooring bench load`: off, default and stock vLLM in turn, one and 16 at a time
    mixed     off and default in one batch
    talks     off and default with conversations
    quality   `mooring bench quality`: off, gentle and strong on some prompts of every set
    peers     peers.py: transformers hooks, eager vLLM hooks, stock vLLM and Mooring

Cards go to stdout, documents and pages to .build/bench/. Short blocks are for looking whether all of it works, not for
quoting: intervals are as wide as they come.
"""

import sys
import time
from collections.abc import Callable, Sequence

import peers
from arms import servers, start_all, stop_all
from mooring_bench.command import bench
from mooring_bench.record import ROOT
from overhead import OPTIONS, subject_of

FOLDER = ROOT / ".build" / "bench"
ARMS = ("stock", "default")
BLOCKS = ("--pairs", "3", "--block-seconds", "6", "--concurrency", "1,16", "--input-tokens", "32")


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    both = servers(subject_of("demo", FOLDER), ARMS, OPTIONS, FOLDER)
    began, codes = time.monotonic(), []
    try:
        start_all(both, False, say)
        codes = [_timed(name, run) for name, run in _parts(both["mooring"].base, both["stock"].base)]
    finally:
        stop_all(both)
    codes.append(_timed("peers", lambda: peers.main(["--pairs", "2", "--out", str(FOLDER / "peers.json")])))
    say(f"bench: {(time.monotonic() - began) / 60:.1f} minutes; documents and pages are in {FOLDER.relative_to(ROOT)}")
    return max(codes)


def _parts(mooring: str, stock: str) -> list[tuple[str, Callable[[], int | None]]]:
    def out(name: str) -> list[str]:
        return ["--out", str(FOLDER / f"{name}.json")]

    def run(arguments: Sequence[str]) -> Callable[[], int | None]:
        return lambda: bench(arguments)

    load, talks = ["load", mooring, *BLOCKS], ["--workload", "talks", "--output-tokens", "32"]
    return [
        ("cost", run([*load, "--stock", stock, *out("cost")])),
        ("mixed", run([*load, "--mode", "mixed", *out("mixed")])),
        ("talks", run([*load, *talks, *out("talks")])),
        ("quality", run(["quality", mooring, "--limit", "12", "--arms", "off,gentle,strong", *out("quality")])),
    ]


def _timed(name: str, run: Callable[[], int | None]) -> int:
    say(f"bench: {name} ...")
    began = time.monotonic()
    code = run() or 0
    say(f"bench: {name} took {time.monotonic() - began:.0f} s")
    return code


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
