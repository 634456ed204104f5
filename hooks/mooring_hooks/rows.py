"""Which slot every row of the batch belongs to, and which profile wrote every block of the KV cache.

Plain arrays in, plain arrays out; the worker feeds them what its model runner knows before each step.

A row is one token at one position of one request. With positions `all` every row has its request's slot; with
`response` the rows below the prompt's length have slot 0, by absolute position and not by phase, because a
preempted answer comes back as prefill.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mooring_hooks.table import Settings

IntArray = npt.NDArray[np.int64]
NULL_BLOCK: Final = 0
"""The block that vLLM puts where a request needs none; it is nobody's."""


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


class BlockTable(NamedTuple):
    """Which KV blocks the requests of one step have, in one KV cache group."""

    block_size: int
    ids: npt.NDArray[np.int32]
    """(N, blocks) of every request the runner knows."""
    of: IntArray
    """(R,) row of `ids` that each request of the batch has."""

    def written(self, batch: Batch) -> npt.NDArray[np.int32]:
        """(T,) block that each row of the batch is written to."""
        return self.ids[self.of[batch.requests()], batch.positions() // self.block_size]


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

    def __init__(self, settings: Settings) -> None:
        digests = [entry.digest for entry in settings.profiles]
        self._names = settings.names()
        self._codes = np.array([1 + digests.index(d) if d else 0 for d in digests], np.int32)
        self._response = np.array([entry.positions == "response" for entry in settings.profiles], bool)
        self._ledger = np.full(1024, -1, np.int32)

    def write(self, batch: Batch, rows: npt.NDArray[np.int32], table: BlockTable) -> None:
        """Note the step's rows, (T,) slots."""
        ids = table.written(batch)
        self._grow(ids)
        self._ledger[ids] = self._codes[rows]

    def check(self, request_id: str, at: int, batch: Batch, table: BlockTable) -> None:
        """Refuse the request at place `at` of the batch if what it has computed lies in blocks of another profile."""
        slot, prompt_length, computed = (int(of[at]) for of in batch[:3])
        count = -(-computed // table.block_size)
        ids = table.ids[table.of[at], :count]
        self._grow(ids)
        wanted = np.full(count, self._codes[slot], np.int32)
        if self._response[slot]:
            ends = np.minimum((np.arange(count) + 1) * table.block_size, computed)
            wanted[ends <= prompt_length] = 0
        wrong = np.flatnonzero((ids != NULL_BLOCK) & (self._ledger[ids] != wanted))
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
