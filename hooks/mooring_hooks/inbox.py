"""The API process's end: one socket, the rings that were named there, and for every open answer the rows that came.

Nothing wakes up for a frame: they wait where they lie until somebody drains, which costs least when many wait.
Rows are kept as they came and put in order once, at the end: a position that was computed twice (after a
preemption) counts once, with the value it had last.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import zmq

from mooring_hooks.frames import (
    HEAD,
    INDEX,
    IPC,
    RING,
    SLOT,
    WAITING_FRAMES,
    MalformedFrame,
    Ticket,
    decode,
    record_size,
)
from mooring_hooks.ring import BrokenRing, RingReader
from mooring_hooks.shared import SharedFolder

_RING_NAME: Final = re.compile(rb"ring-[A-Za-z0-9_]{1,64}")


class Rows(NamedTuple):
    """An answer's readings; T rows in the order of the generated tokens, S sites in the order of the table."""

    index: npt.NDArray[np.int32]
    """(T,) which generated token; 0 is the first."""
    slots: npt.NDArray[np.int32]
    """(T,)"""
    projections: npt.NDArray[np.float32]
    """(S, T) before the cap."""

    def __len__(self) -> int:
        return len(self.index)

    def where(self, kept: npt.NDArray[np.bool_] | slice) -> "Rows":
        return Rows(self.index[kept], self.slots[kept], self.projections[:, kept])

    def since(self, start: int) -> "Rows":
        """Those of tokens from the `start`-th on."""
        return self if start == 0 else self.where(self.index >= start)

    def first(self, count: int) -> "Rows":
        return self if len(self) <= count else self.where(slice(count))

    @staticmethod
    def joined(rows: "Sequence[Rows]") -> "Rows":
        """One after the other; one at least."""
        if len(rows) == 1:
            return rows[0]
        index, slots, projections = zip(*rows, strict=True)
        return Rows(np.concatenate(index), np.concatenate(slots), np.concatenate(projections, axis=1))


class Counts(NamedTuple):
    """What went wrong on the socket."""

    malformed: int
    dropped: int
    """Frames that a sender could not send."""


Stages = dict[int, list[bytes]]
"""First site of a pipeline stage -> its records."""


class Inbox:
    """Open it once per process; `sites` is how many the model has and `slots` its table, which name what may come.
    Safe to use from several threads."""

    def __init__(self, sites: int, slots: int, tcp_host: str | None = None) -> None:
        self._sites, self._slots = sites, slots
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, WAITING_FRAMES)
        self._folder: SharedFolder | None = None
        self.key = ""
        self.address = self._bind_folder() if tcp_host is None else self._bind_tcp(tcp_host)
        self._rings: list[RingReader] = []
        self._answers: dict[int, Stages] = {}
        self._widths: dict[int, int] = {}
        self._numbers: Final = count(1)
        self._malformed = self._dropped = 0
        self._lock = threading.Lock()

    def open(self, answers: int = 1) -> Ticket:
        """A ticket for the answers of one request."""
        with self._lock:
            numbers = [next(self._numbers) for _ in range(answers)]
            self._answers.update((number, defaultdict(list)) for number in numbers)
        return Ticket(self.address, self.key, numbers[0], answers)

    def close(self, ticket: Ticket) -> None:
        """Forget them; rows that come later are ignored."""
        with self._lock:
            for number in range(ticket.number, ticket.number + ticket.answers):
                self._answers.pop(number, None)

    @property
    def waiting(self) -> int:
        """Answers that are open."""
        return len(self._answers)

    @property
    def counts(self) -> Counts:
        return Counts(self._malformed, self._dropped)

    def drain(self) -> None:
        """Take every frame that has come."""
        with self._lock:
            if self._socket.closed:
                return
            if self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # cheaper than a `recv` that raises
                self._drain_socket()
            for reader in [*self._rings]:
                self._drain_ring(reader)

    def _drain_socket(self) -> None:
        while True:
            try:
                payload = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if payload.startswith(RING):
                self._add_ring(payload.removeprefix(RING))
            else:
                self._take(payload)

    def _add_ring(self, name: bytes) -> None:
        if self._folder is None or not _RING_NAME.fullmatch(name):
            self._malformed += 1
            return
        try:
            self._rings.append(RingReader(self._folder.path / name.decode()))
        except (OSError, ValueError):
            self._malformed += 1

    def _drain_ring(self, reader: RingReader) -> None:
        try:
            for payload in reader.read():
                self._take(payload)
        except BrokenRing:
            self._malformed += 1
            self._rings.remove(reader)
            reader.close()

    def _take(self, payload: bytes) -> None:
        try:
            frame, numbers, counts, data = decode(payload, self._sites)
        except MalformedFrame:
            self._malformed += 1
            return
        if self._widths.setdefault(frame.first, frame.sites) != frame.sites:  # a stage's sites do not change
            self._malformed += 1
            return
        self._dropped += frame.dropped
        size, at, answers = record_size(frame.sites), 0, self._answers
        for number, rows in zip(numbers, counts, strict=True):
            end = at + rows * size
            if (stages := answers.get(number)) is not None:
                stages[frame.first].append(data[at:end])
            at = end

    def collect(self, number: int, tokens: int | None, start: int = 0) -> Rows:
        """The rows of an answer's positions from `start` to `tokens` that have come at every site, or of all from
        there; complete if there are `tokens - start` of them. Costs what comes after `start`, not the whole answer."""
        with self._lock:
            stages = {first: _since(chunks, start) for first, chunks in self._answers.get(number, {}).items()}
            widths = {first: self._widths[first] for first in stages}
        if sum(widths.values()) != self._sites:
            return _nothing(self._sites)
        words = [_in_order(raw, widths[first], start, tokens) for first, raw in sorted(stages.items())]
        words = [self._of_slots(w) for w in words]
        if len(words) > 1:
            common = set.intersection(*(set(w[:, INDEX].tolist()) for w in words))
            words = [w[[i in common for i in w[:, INDEX].tolist()]] for w in words]
        values = [w.view("<f4")[:, HEAD:] for w in words]
        every = values[0] if len(values) == 1 else np.concatenate(values, axis=1)
        return Rows(words[0][:, INDEX], words[0][:, SLOT], every.T)

    def _of_slots(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Without rows of a slot that the table does not have, which no worker sends."""
        known = words[:, SLOT].view(np.uint32) < self._slots
        if known.all():
            return words
        self._malformed += 1
        return words[known]

    def stop(self) -> None:
        """Close the socket; nothing is drained after that."""
        with self._lock:
            self._socket.close(linger=0)
            for reader in self._rings:
                reader.close()
            self._rings.clear()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def _bind_folder(self) -> str:
        self._folder = SharedFolder()
        address = f"{IPC}{self._folder.path / 'readings'}"
        self._socket.bind(address)
        return address

    def _bind_tcp(self, host: str) -> str:
        public, secret = zmq.curve_keypair()
        self._socket.curve_server = True
        self._socket.curve_publickey, self._socket.curve_secretkey = public, secret
        self.key = public.decode()
        wrapped = f"[{host}]" if ":" in host else host
        self._socket.setsockopt(zmq.IPV6, ":" in host)
        return f"tcp://{wrapped}:{self._socket.bind_to_random_port(f'tcp://{wrapped}')}"


def _nothing(sites: int) -> Rows:
    empty = np.zeros(0, np.int32)
    return Rows(empty, empty, np.zeros((sites, 0), np.float32))


def _since(chunks: list[bytes], start: int) -> bytes:
    """The last chunks, back to one that begins at `start` or before: positions come in order, and again in order
    where they are computed a second time."""
    if start == 0:
        return b"".join(chunks)
    place = len(chunks)
    while place > 0:
        place -= 1
        if int.from_bytes(chunks[place][:4], "little", signed=True) <= start:
            break
    return b"".join(chunks[place:])


def _in_order(raw: bytes, sites: int, start: int, tokens: int | None) -> npt.NDArray[np.int32]:
    """(T, 2 + sites) words by rising index from `start` to below `tokens`, of each index the last."""
    words = np.frombuffer(raw, "<i4").reshape(-1, HEAD + sites)
    # Of all: not what the highest index says, which somebody else may have made up.
    count = len(words) if tokens is None else max(tokens - start, 0)
    index = words[:, INDEX]
    if len(words) == count and (index == np.arange(start, start + count)).all():  # as nearly always
        return words
    index = index - start
    kept = np.flatnonzero((index >= 0) & (index < count))
    last = np.full(count, -1)
    last[index[kept]] = kept  # numpy keeps the last of equal indices
    return words[last[last >= 0]]
