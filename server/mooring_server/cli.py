"""The `mooring` command.

    mooring serve MODEL ...      serve a capped model (`mooring serve demo` needs nothing else)
    mooring doctor [MODEL]       what was found on this machine, and what is wrong
    mooring axes list            the models whose axis is known
    mooring axes show FILE|NAME  what an axis file holds
    mooring axes convert ...     turn the paper's .pt files into an axis file
    mooring history export ...   the turns that were kept, as CSV or Parquet
    mooring bench load URL       what capping costs, arm against arm
    mooring bench quality URL    what it buys: harm, refusals, capability, drift

What a person can put right is printed without a traceback, with exit code 2.
"""

import sys
from collections.abc import Callable, Sequence

from mooring_axes.errors import CannotServe


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    command = _commands().get(arguments[0])
    if command is None:
        print(f"mooring: there is no command {arguments[0]!r}\n{__doc__}", file=sys.stderr)
        return 2
    try:
        return command(arguments[1:]) or 0
    except CannotServe as error:
        print(f"mooring: {error}", file=sys.stderr)
        return 2


def _commands() -> dict[str, Callable[[Sequence[str]], int | None]]:
    from mooring_bench.command import bench
    from mooring_server.axes_command import axes
    from mooring_server.doctor import doctor
    from mooring_server.history.export import history
    from mooring_server.serve import serve

    return {"serve": serve, "doctor": doctor, "axes": axes, "history": history, "bench": bench}
