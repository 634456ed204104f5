"""One line for every slow step, on standard error, from whichever process does it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mooring_axes.errors import CannotServe


def say(text: str) -> None:
    print(f"mooring: {text}", file=sys.stderr, flush=True)


@contextmanager
def telling() -> Iterator[None]:
    """Say why, in one line, before vLLM buries a refusal in the traces of several processes."""
    try:
        yield
    except CannotServe as error:
        say(f"cannot serve: {error}")
        raise
