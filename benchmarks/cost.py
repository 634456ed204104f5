"""What capping costs here: `mooring bench load` on servers of one model, which this starts.

    python benchmarks/cost.py [--model demo|qwen3-0.6b-shape|qwen3-tiny-shape|MODEL] [any option of bench load]

    off         profiles of one server with Mooring; `off` is the baseline unless --arms says otherwise
    default
    measuring   a server with Mooring in which nothing is capped
    stock       vLLM without Mooring

All are asked for the same, one at a time. arms.py starts them, with the same options of vLLM, compiled.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from arms import Server, servers, start_all, stop_all
from load import CannotMeasure
from mooring_bench import load as bench_load
from mooring_bench.stopping import INTERRUPTED_CODE, sigterm_as_ctrl_c
from overhead import OPTIONS, folder_of, say, subject_for

ARMS: Final = ("stock", "measuring", "default")


def main(arguments: Sequence[str]) -> int:
    own = argparse.ArgumentParser(
        prog="cost.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    own.add_argument("--model", default="demo", help="(%(default)s)")
    options, rest = own.parse_known_args(arguments)
    try:
        with sigterm_as_ctrl_c():
            return measure(options.model, rest)
    except CannotMeasure as reason:
        say(f"cost: {reason}")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED_CODE


def measure(model: str, rest: Sequence[str]) -> int:
    folder = folder_of(model)
    started = servers(subject_for(model, folder), ARMS, OPTIONS, folder)
    try:
        start_all(started, False, say)
        return bench_load.main([*asked(started), "--note", f"benchmarks/cost.py --model {model}", *rest])
    finally:
        stop_all(started)


def asked(started: Mapping[str, Server]) -> list[str]:
    """What says where the servers are."""
    mooring, measuring, stock = (started[name].base for name in ("mooring", "measuring", "stock"))
    return [mooring, "--also", f"measuring={measuring}", "--stock", stock]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
