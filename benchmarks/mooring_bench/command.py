"""The `mooring bench` command.

    mooring bench load URL       what capping costs: arms in turn on one server, and stock vLLM on another
    mooring bench quality URL    what it buys: harm, refusals, capability and drift, item by item
"""

import sys
from collections.abc import Callable, Sequence


def bench(arguments: Sequence[str]) -> int:
    """Run one of them; return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    command = _commands().get(arguments[0])
    if command is None:
        print(f"mooring: there is no command 'bench {arguments[0]}'\n{__doc__}", file=sys.stderr)
        return 2
    return command(arguments[1:])


def _commands() -> dict[str, Callable[[Sequence[str]], int]]:
    from mooring_bench import load, quality

    return {"load": load.main, "quality": quality.main}
