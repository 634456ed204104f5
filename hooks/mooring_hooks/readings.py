"""From the rows of a step to frames: runs in the worker, after every forward pass.

Only positions that hold generated tokens are read, and only of answers that carry a ticket. On a GPU the copy to
the host is queued behind the step and a thread sends it once it is there, so that the model waits for nothing. What
goes wrong here costs readings, which are counted as dropped, and never an answer.
"""

import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from mooring_hooks.frames import Sender, Ticket, Words, records
from mooring_hooks.progress import say
from mooring_hooks.rows import Batch
from mooring_hooks.sites import Site

Projections = npt.NDArray[np.float32]
WAITING_STEPS: Final = 256
"""Steps whose copy may be on its way before new ones are dropped."""


@dataclass(frozen=True, slots=True, eq=False)
class Tickets:
    """Of one batch; R requests."""

    inboxes: list[tuple[str, str]]
    """Distinct (address, key)."""
    inbox: npt.NDArray[np.int64]
    """(R,) index of each request's inbox; -1 where nobody asked."""
    numbers: npt.NDArray[np.int64]
    """(R,)"""
    whole: "Whole | None"
    """If all go to one inbox."""

    @classmethod
    def of(cls, tickets: Sequence[Ticket | None]) -> "Tickets":
        inboxes = list(dict.fromkeys((t.address, t.key) for t in tickets if t is not None))
        inbox = np.array([-1 if t is None else inboxes.index((t.address, t.key)) for t in tickets], np.int64)
        numbers = np.array([0 if t is None else t.number for t in tickets], np.int64)
        alone = len(inboxes) == 1 and None not in tickets
        return cls(inboxes, inbox, numbers, Whole(numbers) if alone else None)


class Whole:
    """What a step sends in which each of R requests decodes one token: made once, since most steps are such."""

    def __init__(self, numbers: npt.NDArray[np.int64]) -> None:
        self.wire = _wire(numbers, np.ones_like(numbers))
        self._requests, self._decodes = len(numbers), False
        self._words: Words | None = None

    def decodes(self, batch: Batch, rows: int) -> bool:
        """Whether every request has exactly one row, behind its prompt; there it stays as long as the batch lives."""
        if rows == self._requests and not self._decodes:
            self._decodes = bool((batch.computed >= batch.prompt_lengths).all())
        return rows == self._requests and self._decodes

    def words(self, batch: Batch, rows: npt.NDArray[np.int32], projections: Sequence[Projections]) -> Words:
        """In one place, which is filled again by the next step."""
        self._words = records(batch.computed - batch.prompt_lengths, rows, projections, self._words)
        return self._words


class Readings:
    """Sends what this stage's sites recorded; `first` is the index of its first site among all of the model's."""

    def __init__(self, sites: Sequence[Site], first: int, device: torch.device) -> None:
        self._sites = sites
        self._sender = Sender(first, len(sites))
        self._viewed = 0
        """Where the first site's buffer lay when `_views` were made."""
        self._views: list[Projections] = []
        self._recorded: list[Projections] = []
        """Of the views, what the last step has filled."""
        self._failed = False
        self._later: queue.Queue[tuple[Tickets, Callable[[], None]]] | None = None
        if device.type != "cpu":
            self._later = queue.Queue(WAITING_STEPS)
            threading.Thread(target=self._work, args=(self._later,), name="mooring-readings", daemon=True).start()

    def take(self, batch: Batch, rows: npt.NDArray[np.int32], tickets: Tickets) -> None:
        """Read the step that has just run; `rows` (T,) are its slots."""
        if tickets.inboxes and self._sites:
            self._try(tickets, lambda: self._take(batch, rows, tickets))

    def _try(self, tickets: Tickets, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            self._sender.count_dropped(tickets.inboxes)
            if not self._failed:
                self._failed = True
                say(f"readings of a step are lost, and counted; this is told once:\n{traceback.format_exc()}")

    def _take(self, batch: Batch, rows: npt.NDArray[np.int32], tickets: Tickets) -> None:
        decoding = tickets.whole is not None and tickets.whole.decodes(batch, len(rows))
        if not decoding and (batch.computed + batch.scheduled <= batch.prompt_lengths).all():
            return
        if self._later is None:
            self._send(batch, rows, tickets, decoding, self._now(len(rows)))
            return
        projections = self._copied(len(rows))
        try:
            self._later.put_nowait((tickets, lambda: self._send(batch, rows, tickets, decoding, projections())))
        except queue.Full:
            self._sender.count_dropped(tickets.inboxes)

    def _send(
        self, batch: Batch, rows: Any, tickets: Tickets, decoding: bool, projections: Sequence[Projections]
    ) -> None:
        """Always from the same thread: a step of decoding fills a place that the one before has filled."""
        if decoding:
            assert tickets.whole is not None
            words = tickets.whole.words(batch, rows, projections)
            self._sender.send(*tickets.inboxes[0], *tickets.whole.wire, words)
            return
        generated = batch.computed + batch.scheduled - batch.prompt_lengths
        counts = np.clip(generated, 0, batch.scheduled)
        index = batch.positions() - np.repeat(batch.prompt_lengths, batch.scheduled)
        inbox_of_row = np.repeat(tickets.inbox, batch.scheduled)
        for number, inbox in enumerate(tickets.inboxes):
            wanted = (index >= 0) & (inbox_of_row == number)
            answers = (counts > 0) & (tickets.inbox == number)
            if answers.any():
                words = records(index[wanted], rows[wanted], [row[wanted] for row in projections])
                self._sender.send(*inbox, *_wire(tickets.numbers[answers], counts[answers]), words)

    def _now(self, count: int) -> list[Projections]:
        """(count,) of each site, where they lie: on a CPU the step has ended."""
        first: int = self._sites[0].module.mooring_projections.data_ptr()  # type: ignore[operator, union-attr]
        if self._viewed != first:  # all are made together, and move together if ever
            buffers: list[Any] = [site.module.mooring_projections for site in self._sites]
            self._viewed, self._views, self._recorded = first, [buffer.numpy() for buffer in buffers], []
        if not self._recorded or len(self._recorded[0]) != count:
            self._recorded = [view[:count] for view in self._views]
        return self._recorded

    def _copied(self, count: int) -> Callable[[], Sequence[Projections]]:
        """A function that returns them once the device has written them."""
        stacked = torch.stack([site.module.mooring_projections[:count] for site in self._sites])  # type: ignore[index]
        host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
        host.copy_(stacked, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # its waiting thread sleeps instead of spinning
        done.record()

        def when_done() -> Sequence[Projections]:
            done.synchronize()
            return list(host.numpy())

        return when_done

    def _work(self, jobs: "queue.Queue[tuple[Tickets, Callable[[], None]]]") -> None:
        while True:
            self._try(*jobs.get())


def _wire(numbers: npt.NDArray[Any], counts: npt.NDArray[Any]) -> tuple[bytes, bytes]:
    return numbers.astype("<i8").tobytes(), counts.astype("<i4").tobytes()
