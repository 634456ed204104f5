"""From the rows of a step to frames: runs in the worker, after every forward pass.

Only positions that hold generated tokens are read, and only of answers that carry a ticket. On a GPU the copy to
the host is queued behind the step and a thread sends it once it is there, so that the model waits for nothing.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mooring_hooks.frames import Sender, Ticket, records
from mooring_hooks.rows import Batch
from mooring_hooks.sites import Site

WAITING_STEPS: Final = 256
"""Steps whose copy may be on its way before new ones are dropped."""


class Tickets(NamedTuple):
    """Of one batch; R requests."""

    inboxes: list[tuple[str, str]]
    """Distinct (address, key)."""
    inbox: npt.NDArray[np.int64]
    """(R,) index of each request's inbox; -1 where nobody asked."""
    numbers: npt.NDArray[np.int64]
    """(R,)"""

    @classmethod
    def of(cls, tickets: Sequence[Ticket | None]) -> "Tickets":
        inboxes = list(dict.fromkeys((t.address, t.key) for t in tickets if t is not None))
        inbox = [-1 if t is None else inboxes.index((t.address, t.key)) for t in tickets]
        numbers = [0 if t is None else t.number for t in tickets]
        return cls(inboxes, np.array(inbox, np.int64), np.array(numbers, np.int64))


class Readings:
    """Sends what this stage's sites recorded; `first` is the index of its first site among all of the model's."""

    def __init__(self, sites: Sequence[Site], first: int, device: torch.device) -> None:
        self._sites = sites
        self._sender = Sender(first, len(sites))
        self._later: queue.Queue[Callable[[], None]] | None = None
        if device.type != "cpu":
            self._later = queue.Queue(WAITING_STEPS)
            threading.Thread(target=self._work, args=(self._later,), name="mooring-readings", daemon=True).start()

    def take(self, batch: Batch, rows: npt.NDArray[np.int32], tickets: Tickets) -> None:
        """Read the step that has just run; `rows` (T,) are its slots."""
        if not tickets.inboxes or not self._sites:
            return
        counts = np.clip(batch.computed + batch.scheduled - batch.prompt_lengths, 0, batch.scheduled)
        if counts.max() == 0:
            return
        projections = self._to_host(len(rows))

        def send() -> None:
            self._send(batch, rows, tickets, counts, projections())

        if self._later is None:
            send()
        else:
            try:
                self._later.put_nowait(send)
            except queue.Full:
                self._sender.count_dropped(tickets.inboxes)

    def _send(self, batch: Batch, rows: Any, tickets: Tickets, counts: Any, projections: Any) -> None:
        index = batch.positions() - np.repeat(batch.prompt_lengths, batch.scheduled)
        inbox_of_row = np.repeat(tickets.inbox, batch.scheduled)
        for number, (address, key) in enumerate(tickets.inboxes):
            wanted = (index >= 0) & (inbox_of_row == number)
            answers = (counts > 0) & (tickets.inbox == number)
            if answers.any():
                words = records(index[wanted], rows[wanted], projections[:, wanted])
                self._sender.send(address, key, tickets.numbers[answers], counts[answers], words)

    def _to_host(self, count: int) -> Callable[[], npt.NDArray[np.float32]]:
        """A function that returns (S, count) once the device has written them."""
        recorded: list[Any] = [site.module.mooring_projections[:count] for site in self._sites]  # type: ignore[index]
        if self._later is None:
            now: npt.NDArray[np.float32] = np.stack([tensor.numpy() for tensor in recorded])
            return lambda: now
        stacked = torch.stack(recorded)
        host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
        host.copy_(stacked, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def when_done() -> npt.NDArray[np.float32]:
            done.synchronize()
            return host.numpy()

        return when_done

    @staticmethod
    def _work(jobs: "queue.Queue[Callable[[], None]]") -> None:
        while True:
            jobs.get()()
