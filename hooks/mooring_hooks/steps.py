"""What a model runner has to say, and the one interface that vLLM's V1 and V2 runners come down to.

A runner tells two moments of every step: `before` it runs, when the order of its rows is final, and `after` its
forward pass is queued. It also runs dummy batches through the served graph. Its own warm-up and capture runs are
no steps: they are told to nobody, so they leave no reading and move no ledger.

No vLLM here; runner_v1.py and runner_v2.py know the two.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mooring_hooks.frames import Ticket
from mooring_hooks.readings import Tickets
from mooring_hooks.rows import Batch, BlockTable, IntArray


class Facts(NamedTuple):
    """Of one request; they never change while it lives."""

    slot: int
    prompt_length: int
    ticket: Ticket | None


class Members(NamedTuple):
    """What stays the same about a batch while its requests do; R requests."""

    ids: list[str]
    slots: IntArray
    """(R,)"""
    prompt_lengths: IntArray
    """(R,)"""
    tickets: Tickets

    @classmethod
    def of(cls, ids: list[str], facts: Sequence[Facts]) -> "Members":
        slots = np.array([f.slot for f in facts], np.int64)
        prompt_lengths = np.array([f.prompt_length for f in facts], np.int64)
        return cls(ids, slots, prompt_lengths, Tickets.of([f.ticket for f in facts]))


class Roster:
    """Looks a batch up again only when it has other requests than the step before."""

    def __init__(self, look_up: Callable[[str], Facts]) -> None:
        self._look_up = look_up
        self._members = Members.of([], [])

    def of(self, ids: Sequence[str]) -> Members:
        if ids != self._members.ids:
            self._members = Members.of(list(ids), [self._look_up(request_id) for request_id in ids])
        return self._members


class Step(NamedTuple):
    """One step of real requests, in the order of the batch's rows."""

    members: Members
    batch: Batch
    arrived: Sequence[int]
    """Requests (by their place in the batch) that may have been given blocks which others wrote."""
    tables: Sequence[BlockTable]
    """One per KV cache group."""


class Dummy(NamedTuple):
    """A batch of nobody's tokens that vLLM runs as it runs a real one of this shape, captured graph and all."""

    shape: str
    rows: int
    run: Callable[[], Any]
    """Returns the hidden states, (rows or more, H); on a pipeline stage before the last, what it hands on."""


class Runner(Protocol):
    """vLLM's model runner, as Mooring needs it."""

    def follow(self, before: Callable[[Step], None], after: Callable[[], None]) -> None:
        """Call both around every forward pass of real requests, from now on."""

    def run_before_cache(self, rows: int) -> None:
        """One pass of the loaded model while there is no KV cache yet."""

    def dummies(self, rows: int) -> list[Dummy]:
        """One batch of at most `rows` rows per kind of graph that vLLM captures; needs the KV cache."""

