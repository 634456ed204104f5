"""Readings on the wire: what a worker pushes after a step to the API process that asked for it.

An API process opens an inbox (inbox.py) and puts a *ticket* into a request's `extra_args`: where to send, and a
number that no other answer of that process has. Only the server writes tickets; from a client the key is a 400.

A frame is one msgpack array of plain numbers and bytes, so nothing that is received can run code. Between nodes it
goes over TCP encrypted to the API process's public key (CURVE), which travels in the ticket and nowhere else. On one
node it goes through a ring in memory (ring.py), because a socket costs the model a system call a step and its own
thread's work: the worker makes the ring in the API process's folder, which has mode 0700, and says its name once over
a Unix socket there. Where there is no room for a ring, its frames take that socket too.

The sender may drop a frame, and counts it; it never blocks the model. It sends what a step has left, as it lies
there: every instruction of it is a step's own time, and the receiver has more of that.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from mooring_hooks.progress import say
from mooring_hooks.ring import RingWriter

READING_KEY: Final = "mooring.reading"
"""Key of `SamplingParams.extra_args` that holds a ticket."""
INDEX: Final = 0
SLOT: Final = 1
HEAD: Final = 2
"""Words of a record before its projections: index of the generated token (0 = the first), slot."""
RING: Final = b"mooring-ring:"
"""Begins the message that names a ring; no frame begins so."""
IPC: Final = "ipc://"
WAITING_FRAMES: Final = 20_000
"""Frames that may wait on either side of the socket before new ones are dropped."""

Column = npt.NDArray[Any]
"""(T,), contiguous."""


class Frame(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Rows of one step at the sites of one pipeline stage; R answers, T rows."""

    first: int
    """Index, among all sites of the model, of the first one in this frame."""
    sites: int
    dropped: int
    """Frames that this sender dropped since its last one."""
    numbers: bytes
    """(R,) int64: ticket numbers."""
    counts: bytes
    """(R,) int32: rows of each answer, in the order of the rows."""
    starts: bytes
    """(R,) int64: position of each answer's first generated token."""
    rows: bytes
    """Column by column: (T,) positions as int64, (T,) slots as int32, and for each site (T,) projections as fp32,
    before the cap. Little-endian."""


class MalformedFrame(ValueError):
    """Bytes on the socket that are no frame."""


_DECODER: Final = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    return msgspec.msgpack.encode(frame)


class Decoded(NamedTuple):
    """A frame as an inbox takes it; R answers, T rows."""

    frame: Frame
    numbers: list[int]
    """(R,)"""
    counts: list[int]
    """(R,)"""
    records: bytes
    """(T, 2 + sites) 4-byte words: see HEAD, then the projection at each site as fp32."""


def decode(payload: bytes, sites: int) -> Decoded:
    """`sites` is how many the model has."""
    try:
        frame = _DECODER.decode(payload)
        if not (0 <= frame.first and 0 < frame.sites and frame.first + frame.sites <= sites and frame.dropped >= 0):
            raise MalformedFrame(f"sites {frame.first} to {frame.first + frame.sites}, and the model has {sites}")
        count, rest = divmod(len(frame.rows), _row_size(frame.sites))
        numbers, counts, starts = _answers(frame.numbers, frame.counts, frame.starts, count)
    except (msgspec.DecodeError, ValueError) as error:
        raise MalformedFrame(str(error)) from None
    if rest:
        raise MalformedFrame(f"{len(frame.rows)} bytes, and rows of {_row_size(frame.sites)}")
    return Decoded(frame, numbers, counts, _records(frame, count, starts))


@lru_cache(64)
def _answers(numbers: bytes, counts: bytes, starts: bytes, count: int) -> tuple[list[int], list[int], Column]:
    """Numbers, counts, and of every row its answer's start; remembered, because most steps are of the same answers as
    the step before."""
    whose, rows, begun = np.frombuffer(numbers, "<i8"), np.frombuffer(counts, "<i4"), np.frombuffer(starts, "<i8")
    if not len(whose) == len(rows) == len(begun) or (rows < 1).any() or rows.sum(dtype=np.int64) != count:
        raise MalformedFrame(f"{len(whose)} answers with {len(begun)} starts and counts {rows[:8]} for {count} rows")
    return whose.tolist(), rows.tolist(), np.repeat(begun, rows)


def _records(frame: Frame, count: int, starts: Column) -> bytes:
    words = np.empty((count, HEAD + frame.sites), "<i4")
    words[:, INDEX] = np.frombuffer(frame.rows, "<i8", count) - starts
    words[:, SLOT] = np.frombuffer(frame.rows, "<i4", count, _OF_POSITION * count)
    projections = np.frombuffer(frame.rows, "<i4", frame.sites * count, (_OF_POSITION + _OF_SLOT) * count)
    words[:, HEAD:] = projections.reshape(frame.sites, count).T
    return words.tobytes()


_OF_POSITION, _OF_SLOT, _OF_PROJECTION = 8, 4, 4
"""Bytes."""


def _row_size(sites: int) -> int:
    """Bytes of one row of a frame."""
    return _OF_POSITION + _OF_SLOT + _OF_PROJECTION * sites


def record_size(sites: int) -> int:
    """Bytes of one record."""
    return 4 * (HEAD + sites)


class Answers:
    """Whose rows a step has: (R,) ticket numbers, rows of each, and the positions of their first tokens. What a frame
    says of them is made once, since most steps are of the same answers as the step before."""

    def __init__(self, numbers: Column, counts: Column, starts: Column) -> None:
        self._fields = numbers.astype("<i8").tobytes(), counts.astype("<i4").tobytes(), starts.astype("<i8").tobytes()
        self._rows = int(counts.sum())
        self._head = b""

    def head(self, first: int, sites: int, dropped: int) -> bytes:
        """A frame up to its rows, from the one stage that has these answers."""
        if not dropped and self._head:
            return self._head
        rows = bytes(self._rows * _row_size(sites))
        whole = encode(Frame(first, sites, dropped, *self._fields, rows))
        head = whole[: len(whole) - len(rows)]
        if not dropped:
            self._head = head
        return head


class Ticket(NamedTuple):
    """Where an answer's readings go, and under which number; the answers of one request follow each other."""

    address: str
    key: str
    """Public key (Z85) of an address between nodes; empty for a Unix socket."""
    number: int
    answers: int

    def to_extra_args(self, trust: str) -> dict[str, Any]:
        return {READING_KEY: [trust, *self]}

    @classmethod
    def of(cls, extra_args: dict[str, Any], request_id: str) -> "Ticket | None":
        """The ticket of a request in the engine; one of several answers has its index before its id."""
        if READING_KEY not in extra_args:
            return None
        address, key, number, answers = extra_args[READING_KEY][1:]
        child = int(request_id.split("_", 1)[0]) if answers > 1 else 0
        return cls(address, key, number + child, 1)


class Sender:
    """The way to every API process; `first` and `sites` place this stage among the model's sites."""

    def __init__(self, first: int, sites: int) -> None:
        self._first, self._sites = first, sites
        self._ways: dict[str, Callable[[bytes], bool]] = {}
        """Address -> what takes a frame there, and says whether it did."""
        self._open: list[zmq.Socket[bytes] | RingWriter] = []
        self._lock = threading.Lock()
        self._dropped: Counter[str] = Counter()
        """Address -> frames, since the beginning."""
        self._told: Counter[str] = Counter()
        """Of those, what a frame that went out has said."""

    def send(self, address: str, key: str, answers: Answers, columns: Sequence[Column]) -> None:
        """Push one frame, or count it as dropped; `columns` as a frame's rows have them."""
        dropped = self._dropped[address]
        head = answers.head(self._first, self._sites, dropped - self._told[address])
        way = self._ways.get(address) or self._way(address, key)
        if way(b"".join((head, *columns))):
            self._told[address] = dropped
        else:
            self.count_dropped([(address, key)])

    def count_dropped(self, inboxes: Sequence[tuple[str, str]]) -> None:
        """One frame to each of these (address, key) was not sent. From any thread."""
        with self._lock:
            self._dropped.update(address for address, _ in inboxes)

    def _way(self, address: str, key: str) -> Callable[[bytes], bool]:
        socket = self._connect(address, key)
        self._open.append(socket)
        self._ways[address] = partial(_pushed, socket)
        if address.startswith(IPC):
            try:
                ring = RingWriter(Path(address.removeprefix(IPC)).parent)
            except OSError as error:
                say(f"readings go over a socket, which costs a little more: no ring can be made: {error}")
            else:
                self._open.append(ring)
                _pushed(socket, RING + ring.name.encode())
                self._ways[address] = ring.write
        return self._ways[address]

    @staticmethod
    def _connect(address: str, key: str) -> "zmq.Socket[bytes]":
        # The process's own context: one that is thrown away waits, without end, for sockets that are still open.
        socket = zmq.Context.instance().socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, WAITING_FRAMES)
        if key:
            public, secret = zmq.curve_keypair()
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, key.encode()
        socket.connect(address)
        return socket

    def close(self) -> None:
        for each in self._open:
            each.close()
        self._open.clear()
        self._ways.clear()


def _pushed(socket: "zmq.Socket[bytes]", message: bytes) -> bool:
    try:
        socket.send(message, zmq.NOBLOCK)
    except zmq.ZMQError:
        return False
    return True
