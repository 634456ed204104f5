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

from mooring_hooks.frames import Answers, Sender, Ticket
from mooring_hooks.progress import say
from mooring_hooks.rows import Batch
from mooring_hooks.sites import Site

Projections = npt.NDArray[np.float32]
WAITING_STEPS: Final = 256
"""Steps whose copy may be on its way before new ones are dropped."""


@dataclass(slots=True, eq=False)
class Tickets:
    """Of one batch; R requests."""

    inboxes: list[tuple[str, str]]
    """Distinct (address, key)."""
    inbox: npt.NDArray[np.int64]
    """(R,) index of each request's inbox; -1 where nobody asked."""
    numbers: npt.NDArray[np.int64]
    """(R,)"""
    alone: bool
    """Whether all go to one inbox."""
    _decoding: Answers | None = None
    """Of a step in which each of them decodes one token: made once, since most steps are such."""

    @classmethod
    def of(cls, tickets: Sequence[Ticket | None]) -> "Tickets":
        inboxes = list(dict.fromkeys((t.address, t.key) for t in tickets if t is not None))
        inbox = np.array([-1 if t is None else inboxes.index((t.address, t.key)) for t in tickets], np.int64)
        numbers = np.array([0 if t is None else t.number for t in tickets], np.int64)
        return cls(inboxes, inbox, numbers, len(inboxes) == 1 and None not in tickets)

    def decoding(self, batch: Batch, rows: int) -> Answers | None:
        """If each has exactly one row, behind its prompt, where it stays while the batch lives, and all go to one
        inbox."""
        if not self.alone or rows != len(self.numbers):
            return None
        if self._decoding is None and (batch.computed >= batch.prompt_lengths).all():
            self._decoding = Answers(self.numbers, batch.scheduled, batch.prompt_lengths)
        return self._decoding


class Readings:
    """Sends what this stage's sites recorded; `first` is the index of its first site among all of the model's."""

    def __init__(self, sites: Sequence[Site], first: int, device: torch.device) -> None:
        self._sites = sites
        self._first: dict[str, Any] = sites[0].module._buffers if sites else {}
        """The first site's buffers by name: to ask its module takes longer than all else that a step does here."""
        self._sender = Sender(first, len(sites))
        self._viewed: torch.Tensor | None = None
        """The first site's buffer when `_views` were made."""
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
        decoding = tickets.decoding(batch, len(rows))
        if decoding is None and (batch.computed + batch.scheduled <= batch.prompt_lengths).all():
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
        self, batch: Batch, rows: Any, tickets: Tickets, decoding: Answers | None, projections: Sequence[Projections]
    ) -> None:
        if decoding is not None:
            self._sender.send(*tickets.inboxes[0], decoding, (batch.computed, rows, *projections))
            return
        generated = batch.computed + batch.scheduled - batch.prompt_lengths
        counts, positions = np.clip(generated, 0, batch.scheduled), batch.positions()
        spoken = positions >= np.repeat(batch.prompt_lengths, batch.scheduled)
        inbox_of_row = np.repeat(tickets.inbox, batch.scheduled)
        for number, inbox in enumerate(tickets.inboxes):
            wanted = spoken & (inbox_of_row == number)
            whose = (counts > 0) & (tickets.inbox == number)
            if whose.any():
                answers = Answers(tickets.numbers[whose], counts[whose], batch.prompt_lengths[whose])
                columns = (positions[wanted], rows[wanted], *(row[wanted] for row in projections))
                self._sender.send(*inbox, answers, columns)

    def _now(self, count: int) -> list[Projections]:
        """(count,) of each site, where they lie: on a CPU the step has ended."""
        first = self._first["mooring_projections"]  # all are made together, and replaced together if ever
        if self._viewed is not first:
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
