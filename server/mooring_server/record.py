"""What one answer read: the one thing that whoever counts, keeps or shows answers gets to see.

A *sink* is given every record once, when its answer has ended, on the event loop: it must not block. What it raises
is logged and counted; neither the answer nor another sink notices.
"""

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mooring_hooks.progress import say

READINGS_VARIABLE: Final = "MOORING_READINGS"
NO_ARM: Final = "none"
"""The arm of what is of no experiment."""


def readings_wanted(environment: Mapping[str, str]) -> bool:
    """Whether answers are measured: MOORING_READINGS=0 switches it off, and nothing else does."""
    return environment.get(READINGS_VARIABLE, "1") != "0"


@dataclass(frozen=True, slots=True)
class Record:
    """Of one choice of a reply. The means are None where no token was measured. Holds nothing that was said."""

    at: float
    """When the answer ended, in Unix seconds by this machine's clock."""
    response: str
    """Id of the response, as "chatcmpl-...", at most 128 printable characters; empty where it never came to one."""
    choice: int
    route: str
    """"chat", "completions", "responses" or "messages"."""
    model: str
    """The first name under which the model is served."""
    profile: str
    arm: str
    """Of an experiment, as NAME/ARM; "none" where the answer is of none."""
    session: str
    """At most 128 printable characters; empty where nothing tells."""
    identity: str
    """Who named the session: "client" (vLLM's own session_id), "alias", "derived" (the conversation itself), "none"."""
    turn: int | None
    """1 + the assistant's messages in the request; None where it holds no conversation."""
    node: str
    """Hash of the conversation up to and with this answer; empty where there is none."""
    parent: str
    """The same up to the last answer in the request; empty at the first turn."""
    tokens: int
    """Generated."""
    measured_tokens: int
    lifted_tokens: int
    """Of the measured ones, those that the cap lifted at one layer or more."""
    projection: float | None
    """At the monitored layer."""
    drift: float | None
    mean_lift: float | None
    complete: bool
    """Whether all readings had come."""
    finished: bool
    """False where the client hung up first."""
    layers: Mapping[int, tuple[float, float, float]]
    """Layer -> mean projection, mean lift, share of lifted tokens."""


Sink = Callable[[Record], None]


class Sinks:
    """Who is given every record; `failed` is told the name of a sink that raised."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._sinks: dict[str, Sink] = {}
        self._failed = failed
        self._told: set[str] = set()

    def add(self, name: str, sink: Sink) -> None:
        self._sinks[name] = sink

    def tell(self, records: Iterable[Record]) -> None:
        for record in records:
            for name, sink in self._sinks.items():
                try:
                    sink(record)
                except Exception:  # whatever it is: the answer has been given, and the others want theirs
                    self._note(name)

    def _note(self, name: str) -> None:
        self._failed(name)
        if name not in self._told:
            self._told.add(name)
            say(f"the sink {name!r} failed for an answer, which went out all the same; further failures are only")
            say(f"counted, in mooring_sink_errors_total\n{traceback.format_exc()}")
