"""Which slot every row of the batch belongs to, and which profile wrote every block of the KV cache.

Plain arrays in, plain arrays out; the worker feeds them what its model runner knows before each step.

A row is one token at one position of one request. With positions `all` every row has its request's slot; with
`response` the rows below the prompt's length have slot 0, by absolute position and not by phase, because a
preempted answer comes back as prefill.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mooring_hooks.table import Settings

IntArray = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """One step, in the order of the batch's rows; R requests, T rows."""

    slots: IntArray
    """(R,) slot of each request."""
    prompt_lengths: IntArray
    """(R,)"""
    computed: IntArray
    """(R,) positions of each request that are already in the KV cache."""
    scheduled: IntArray
    """(R,) rows of each request in this step."""

    def requests(self) -> IntArray:
        """(T,) index of each row's request."""
        return np.repeat(np.arange(len(self.scheduled)), self.scheduled)

    def positions(self) -> IntArray:
        """(T,) absolute position of each row."""
        starts = np.cumsum(self.scheduled) - self.scheduled
        return np.arange(int(self.scheduled.sum())) + np.repeat(self.computed - starts, self.scheduled)


class SlotRows:
    """Fills the row -> slot buffer."""

    def __init__(self, settings: Settings) -> None:
        self._response = np.array([entry.positions == "response" for entry in settings.profiles], bool)

    def of(self, batch: Batch) -> npt.NDArray[np.int32]:
        """(T,) slot of each row."""
        rows = np.repeat(batch.slots, batch.scheduled).astype(np.int32)
        late = self._response[batch.slots]
        if late.any():
            in_prompt = batch.positions() < np.repeat(batch.prompt_lengths, batch.scheduled)
            rows[in_prompt & np.repeat(late, batch.scheduled)] = 0
        return rows


class ForeignBlock(RuntimeError):
    """A request was given KV that another profile computed."""


class BlockLedger:
    """Remembers under which profile each KV block was written, and refuses blocks of another one.

    The second net under the cache salt. One ledger per KV cache group. Codes: 0 = untouched stream, else 1 + the
    first slot with the same digest, because profiles of equal content share their cache.
    """

    def __init__(self, settings: Settings, block_size: int, null_blocks: int = 1) -> None:
        digests = [entry.digest for entry in settings.profiles]
        self._names = settings.names()
        self._codes = np.array([1 + digests.index(d) if d else 0 for d in digests], np.int32)
        self._response = np.array([entry.positions == "response" for entry in settings.profiles], bool)
        self._block_size = block_size
        self._null_blocks = null_blocks
        self._ledger = np.full(1024, -1, np.int32)

    def write(self, batch: Batch, rows: npt.NDArray[np.int32], blocks: npt.NDArray[np.int32]) -> None:
        """Note the step's rows; `blocks` (R, N) is the batch's block table."""
        ids = blocks[batch.requests(), batch.positions() // self._block_size]
        self._grow(ids)
        self._ledger[ids] = self._codes[rows]

    def check(
        self, request_id: str, slot: int, prompt_length: int, computed: int, blocks: npt.NDArray[np.int32]
    ) -> None:
        """Refuse a request whose first `computed` positions lie in blocks of another profile; `blocks` (N,)."""
        count = -(-computed // self._block_size)
        ids = blocks[:count]
        self._grow(ids)
        wanted = np.full(count, self._codes[slot], np.int32)
        if self._response[slot]:
            ends = np.minimum((np.arange(count) + 1) * self._block_size, computed)
            wanted[ends <= prompt_length] = 0
        real = ids >= self._null_blocks
        wrong = np.flatnonzero(real & (self._ledger[ids] != wanted))
        if wrong.size:
            raise ForeignBlock(
                f"request {request_id} (profile {self._names[slot]!r}) was given KV block {ids[wrong[0]]}, which "
                f"{self._owner(int(self._ledger[ids[wrong[0]]]))}: the prefix cache is not isolated, so the engine "
                "stops rather than answer half-capped"
            )

    def _owner(self, code: int) -> str:
        if code < 0:
            return "no request wrote"
        return "was written uncapped" if code == 0 else f"was written under profile {self._names[code - 1]!r}"

    def _grow(self, ids: Sequence[int] | npt.NDArray[np.int32]) -> None:
        if len(ids) and (top := int(np.max(ids))) >= len(self._ledger):
            more = np.full(max(top + 1, 2 * len(self._ledger)) - len(self._ledger), -1, np.int32)
            self._ledger = np.concatenate([self._ledger, more])
