"""One line for every slow step, on standard error, from whichever process does it."""

import sys


def say(text: str) -> None:
    print(f"mooring: {text}", file=sys.stderr, flush=True)
