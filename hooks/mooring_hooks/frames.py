"""Readings on the wire: what a worker pushes after a step to the API process that asked for it.

An API process opens an inbox (inbox.py) and puts a *ticket* into a request's `extra_args`: where to send, and a
number that no other answer of that process has. Only the server writes tickets; from a client the key is a 400.

A frame is one msgpack array of plain numbers and bytes, so nothing that is received can run code. Between nodes it
goes over TCP encrypted to the API process's public key (CURVE), which travels in the ticket and nowhere else. On one
node it goes through a ring in memory (ring.py), because a socket costs the model a system call a step and its own
thread's work: the worker makes the ring in the API process's folder, which has mode 0700, and says its name once over
a Unix socket there. Where there is no room for a ring, its frames take that socket too.

The sender may drop a frame, and counts it; it never blocks the model.
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
"""Words of a record before its projections: index of the generated token, slot."""
RING: Final = b"mooring-ring:"
"""Begins the message that names a ring; no frame begins so."""
IPC: Final = "ipc://"
WAITING_FRAMES: Final = 20_000
"""Frames that may wait on either side of the socket before new ones are dropped."""

Words = npt.NDArray[np.int32]


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
    """(R,) int32: rows of each answer, in the order of the records."""
    records: bytes
    """(T, 2 + sites) 4-byte words: index of the generated token (0 = the first) and slot as int32, then the
    projection at each site as fp32, before the cap. Little-endian."""


class MalformedFrame(ValueError):
    """Bytes on the socket that are no frame."""


_DECODER: Final = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    return msgspec.msgpack.encode(frame)


def decode(payload: bytes, sites: int) -> tuple[Frame, list[int], list[int]]:
    """The frame, its ticket numbers and counts; `sites` is how many the model has."""
    try:
        frame = _DECODER.decode(payload)
        numbers, counts, rows = _answers(frame.numbers, frame.counts)
    except (msgspec.DecodeError, ValueError) as error:
        raise MalformedFrame(str(error)) from None
    if not (0 <= frame.first and 0 < frame.sites and frame.first + frame.sites <= sites and frame.dropped >= 0):
        raise MalformedFrame(f"sites {frame.first} to {frame.first + frame.sites}, and the model has {sites}")
    if rows * record_size(frame.sites) != len(frame.records):
        raise MalformedFrame(f"{rows} rows in {len(frame.records)} bytes")
    return frame, numbers, counts


@lru_cache(64)
def _answers(numbers: bytes, counts: bytes) -> tuple[list[int], list[int], int]:
    """Numbers, counts and their sum; remembered, because most steps are of the same answers as the step before."""
    whose, rows = np.frombuffer(numbers, "<i8").tolist(), np.frombuffer(counts, "<i4").tolist()
    if len(whose) != len(rows) or min(rows, default=1) < 1:
        raise MalformedFrame(f"{len(whose)} answers with counts {rows[:8]}")
    return whose, rows, sum(rows)


def record_size(sites: int) -> int:
    """Bytes of one row."""
    return 4 * (HEAD + sites)


def records(
    index: npt.NDArray[Any],
    slots: npt.NDArray[Any],
    projections: Sequence[npt.NDArray[np.float32]],
    words: Words | None = None,
) -> Words:
    """(T, 2 + S) words of a frame, from (T,), (T,) and S arrays of (T,); `words` is where, if they have a place."""
    if words is None:
        words = np.empty((len(index), HEAD + len(projections)), "<i4")
    words[:, INDEX], words[:, SLOT] = index, slots
    values = words.view("<f4")
    for site, row in enumerate(projections, HEAD):
        values[:, site] = row
    return words


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

    def send(self, address: str, key: str, numbers: bytes, counts: bytes, words: Words) -> None:
        """Push one frame, or count it as dropped; `numbers` and `counts` as a frame has them."""
        dropped = self._dropped[address]
        frame = Frame(self._first, self._sites, dropped - self._told[address], numbers, counts, words.tobytes())
        way = self._ways.get(address) or self._way(address, key)
        if way(encode(frame)):
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
