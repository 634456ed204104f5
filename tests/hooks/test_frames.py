"""What goes over the readings socket, and what is made of it at the other end."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from mooring_hooks import frames
from mooring_hooks.frames import RING, Answers, Frame, MalformedFrame, Sender, Ticket, decode, encode
from mooring_hooks.inbox import Inbox, Rows
from mooring_hooks.ring import RingWriter

SITES, SLOTS = 3, 8
START = 5
"""Position of every answer's first token."""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    found = Inbox(SITES, SLOTS)
    yield found
    found.stop()


def columns(index: list[int], first: int = 0, sites: int = SITES, bump: float = 0.0, slot: int = 2) -> list[Any]:
    """Of a frame, whose projection at site s and token i is 10 * s + i + bump."""
    tokens = np.array(index, np.int64)
    values = [(10.0 * (first + site) + tokens + bump).astype(np.float32) for site in range(sites)]
    return [tokens + START, np.full(len(index), slot, np.int32), *values]


def push(inbox: Inbox, sender: Sender, numbers: list[int], counts: list[int], rows: list[Any]) -> None:
    sender.send(inbox.address, inbox.key, answers(numbers, counts), rows)


def answers(numbers: list[int], counts: list[int]) -> Answers:
    return Answers(np.array(numbers), np.array(counts), np.full(len(numbers), START))


def collected(inbox: Inbox, number: int, tokens: int) -> Rows:
    """What has come after at most a second."""
    until = time.monotonic() + 1
    while True:
        inbox.drain()
        rows = inbox.collect(number, tokens)
        if len(rows) == tokens or time.monotonic() > until:
            return rows
        time.sleep(0.002)


def expected(tokens: int) -> list[list[float]]:
    return [[10.0 * site + token for token in range(tokens)] for site in range(SITES)]


# --- frames --------------------------------------------------------------------------------------


def frame(**changes: Any) -> Frame:
    numbers, counts, starts = (np.array([n], kind).tobytes() for n, kind in ((7, "<i8"), (2, "<i4"), (START, "<i8")))
    whole: dict[str, Any] = {"first": 0, "sites": SITES, "dropped": 0, "numbers": numbers, "counts": counts,
                             "starts": starts, "rows": b"".join(columns([0, 1]))}  # fmt: skip
    return Frame(**whole | changes)


def test_a_frame_comes_back_as_it_was() -> None:
    found = decode(encode(frame()), SITES)
    assert found[:3] == (frame(), [7], [2])
    words = np.frombuffer(found.records, "<i4").reshape(2, -1)
    assert words[:, :2].tolist() == [[0, 2], [1, 2]]
    assert words.view("<f4")[:, 2:].tolist() == [[0, 10, 20], [1, 11, 21]]


@pytest.mark.parametrize("dropped", [0, 3])
def test_a_head_and_its_rows_are_a_frame_again_and_again(dropped: int) -> None:
    given = answers([7], [2])
    for _ in range(2):
        assert given.head(0, SITES, dropped) + b"".join(columns([0, 1])) == encode(frame(dropped=dropped))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00" * 40,
        b"not msgpack at all",
        msgspec.msgpack.encode({"first": 0}),
        msgspec.msgpack.encode([0, 3, 0, b"", b"", b""]),
        msgspec.msgpack.encode(["0", 3, 0, b"", b"", b"", b""]),
        msgspec.msgpack.encode([0, 3, 0, b"", b"", b"", b"", b"more"]),
        encode(frame(first=-1)),
        encode(frame(first=1)),
        encode(frame(sites=0)),
        encode(frame(dropped=-1)),
        encode(frame(numbers=b"123")),
        encode(frame(numbers=b"")),
        encode(frame(counts=np.array([-1], "<i4").tobytes())),
        encode(frame(starts=b"")),
        encode(frame(counts=np.array([0], "<i4").tobytes(), rows=b"")),
        encode(frame(counts=np.array([3], "<i4").tobytes())),
        encode(frame(counts=np.array([2**31 - 1], "<i4").tobytes())),
        encode(frame(rows=b"")),
        encode(frame(rows=b"".join(columns([0, 1])) + b"x")),
    ],
)
def test_bytes_that_are_no_frame_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode(payload, SITES)


def test_a_choice_finds_its_number_by_the_index_before_its_id() -> None:
    extra = Ticket("ipc:///x", "", 10, 3).to_extra_args("trust")
    assert [Ticket.of(extra, f"{i}_cmpl-1") for i in range(3)] == [Ticket("ipc:///x", "", 10 + i, 1) for i in range(3)]
    alone = Ticket("ipc:///x", "", 10, 1)
    assert Ticket.of(alone.to_extra_args("trust"), "7_looks-like-a-choice") == alone
    assert Ticket.of({}, "cmpl-1") is None


# --- inbox ---------------------------------------------------------------------------------------


def test_rows_of_several_steps_become_one_answer(inbox: Inbox) -> None:
    sender, one, two = Sender(0, SITES), inbox.open(), inbox.open()
    push(inbox, sender, [one.number, two.number], [1, 2], columns([0, 0, 1]))
    push(inbox, sender, [two.number, one.number], [1, 1], columns([2, 1]))
    assert collected(inbox, one.number, 2).projections.tolist() == expected(2)
    rows = collected(inbox, two.number, 3)
    assert rows.projections.tolist() == expected(3)
    assert rows.index.tolist() == [0, 1, 2] and rows.slots.tolist() == [2, 2, 2]


def test_a_position_that_was_computed_again_counts_once_with_its_last_value(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    for index, bump in (([0, 1, 2], 0.5), ([0, 1, 2, 3], 0.0)):
        push(inbox, sender, [ticket.number], [len(index)], columns(index, bump=bump))
    assert collected(inbox, ticket.number, 4).projections.tolist() == expected(4)


def test_positions_behind_the_answers_end_do_not_count(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    push(inbox, sender, [ticket.number], [5], columns([0, 1, 2, 3, 4]))
    assert collected(inbox, ticket.number, 3).projections.tolist() == expected(3)


def test_a_missing_position_is_missed(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    push(inbox, sender, [ticket.number], [2], columns([0, 2]))
    assert collected(inbox, ticket.number, 3).index.tolist() == [0, 2]


def test_an_answer_of_one_token_needs_no_rows(inbox: Inbox) -> None:
    assert len(inbox.collect(inbox.open().number, 0)) == 0


def test_stages_of_a_pipeline_are_put_together_and_all_are_needed(inbox: Inbox) -> None:
    early, late, ticket = Sender(0, 2), Sender(2, 1), inbox.open()
    push(inbox, early, [ticket.number], [3], columns([0, 1, 2], sites=2))
    assert len(collected(inbox, ticket.number, 3)) == 0
    push(inbox, late, [ticket.number], [2], columns([0, 1], first=2, sites=1))
    assert collected(inbox, ticket.number, 3).projections.tolist() == expected(2)
    push(inbox, late, [ticket.number], [1], columns([2], first=2, sites=1))
    assert collected(inbox, ticket.number, 3).projections.tolist() == expected(3)


def test_rows_of_a_closed_answer_are_ignored_and_nothing_is_kept(inbox: Inbox) -> None:
    sender, ticket, other = Sender(0, SITES), inbox.open(2), inbox.open()
    inbox.close(ticket)
    push(inbox, sender, [ticket.number, ticket.number + 1, other.number], [1, 1, 1], columns([0, 0, 0]))
    assert collected(inbox, other.number, 1).projections.tolist() == expected(1)
    assert inbox.waiting == 1 and inbox.counts == (0, 0)


def test_malformed_frames_are_dropped_and_counted_and_good_ones_still_arrive(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    context = zmq.Context()
    with context.socket(zmq.PUSH) as stranger:
        stranger.connect(inbox.address)
        for payload in (b"", b"\xff" * 1000, encode(frame(first=9))):
            stranger.send(payload)
    context.term()
    push(inbox, sender, [ticket.number], [1], columns([0]))
    assert collected(inbox, ticket.number, 1).projections.tolist() == expected(1)
    until = time.monotonic() + 1
    while inbox.counts.malformed < 3 and time.monotonic() < until:
        inbox.drain()
    assert inbox.counts.malformed == 3


def test_the_socket_lies_in_a_folder_for_this_user_only_and_goes_with_the_inbox(inbox: Inbox) -> None:
    folder = Path(inbox.address.removeprefix("ipc://")).parent
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    inbox.stop()
    assert not folder.exists()


def test_between_nodes_only_holders_of_the_key_are_heard() -> None:
    inbox = Inbox(SITES, SLOTS, tcp_host="127.0.0.1")
    ticket = inbox.open()
    assert ticket.address.startswith("tcp://127.0.0.1:") and len(ticket.key) == 40
    strangers_key = zmq.curve_keypair()[0].decode()
    senders = [Sender(0, SITES) for _ in range(3)]
    for sender, key in zip(senders, ("", strangers_key), strict=False):
        sender.send(ticket.address, key, answers([ticket.number], [1]), columns([1]))
    senders[2].send(ticket.address, ticket.key, answers([ticket.number], [1]), columns([0]))
    assert collected(inbox, ticket.number, 2).index.tolist() == [0]
    inbox.stop()


def no_ring(folder: Path) -> RingWriter:
    raise OSError(28, "No space left on device")


def small_ring(folder: Path) -> RingWriter:
    return RingWriter(folder, 256)


@pytest.mark.parametrize("ring", [no_ring, small_ring])
def test_a_full_way_drops_and_says_so_and_never_blocks(ring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "WAITING_FRAMES", 3)
    monkeypatch.setattr(frames, "RingWriter", ring)
    inbox = Inbox(SITES, SLOTS)
    sender, ticket = Sender(0, SITES), inbox.open()
    nowhere = inbox.address + "-later"
    started = time.monotonic()
    for token in range(10):  # nobody listens there yet
        sender.send(nowhere, "", answers([ticket.number], [1]), columns([token]))
    assert time.monotonic() - started < 1
    assert sender._dropped[nowhere] > 0
    inbox.stop()


def test_without_room_for_a_ring_frames_take_the_socket(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frames, "RingWriter", no_ring)
    sender, ticket = Sender(0, SITES), inbox.open()
    for token in range(5):
        push(inbox, sender, [ticket.number], [1], columns([token]))
    assert collected(inbox, ticket.number, 5).projections.tolist() == expected(5) and inbox._rings == []
    assert capfd.readouterr().err.count("no ring can be made: [Errno 28] No space left on device") == 1


def test_on_one_node_frames_go_through_a_ring_that_leaves_no_file(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    for token in range(5):
        push(inbox, sender, [ticket.number], [1], columns([token]))
    assert collected(inbox, ticket.number, 5).projections.tolist() == expected(5) and len(inbox._rings) == 1
    folder = Path(inbox.address.removeprefix("ipc://")).parent
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "readings"]


def test_the_ring_lies_in_memory_and_only_on_processors_that_keep_stores_in_order(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert inbox.address.startswith("ipc:///dev/shm/mooring-")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    sender, ticket = Sender(0, SITES), inbox.open()
    push(inbox, sender, [ticket.number], [1], columns([0]))
    assert len(collected(inbox, ticket.number, 1)) == 1 and inbox._rings == []
    assert "no ring can be made: not on aarch64" in capfd.readouterr().err


@pytest.mark.parametrize("slot", [SLOTS, -1])
def test_a_row_of_a_slot_that_there_is_not_is_counted_and_spoils_no_answer(inbox: Inbox, slot: int) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    push(inbox, sender, [ticket.number], [1], columns([0]))
    push(inbox, sender, [ticket.number], [1], columns([1], slot=slot))
    push(inbox, sender, [ticket.number], [1], columns([2]))
    until = time.monotonic() + 5
    while inbox.counts.malformed < 1 and time.monotonic() < until:
        rows = collected(inbox, ticket.number, 3)
    assert rows.index.tolist() == [0, 2] and inbox.counts.malformed >= 1


def test_a_frame_of_another_width_is_counted_and_spoils_no_answer(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    push(inbox, sender, [ticket.number], [2], columns([0, 1]))
    assert len(collected(inbox, ticket.number, 2)) == 2
    other = Sender(0, SITES - 1)
    push(inbox, other, [ticket.number], [1], columns([2], sites=SITES - 1))
    push(inbox, sender, [ticket.number], [1], columns([2]))
    until = time.monotonic() + 5
    while inbox.counts.malformed < 1 and time.monotonic() < until:
        inbox.drain()
    assert collected(inbox, ticket.number, 3).projections.tolist() == expected(3)
    assert inbox.counts.malformed == 1


@pytest.mark.parametrize("name", [b"../../etc/passwd", b"ring-none", b"readings", b"\xff", b""])
def test_a_ring_that_is_none_is_counted_and_nothing_is_opened(inbox: Inbox, name: bytes) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(inbox.address)
        stranger.send(RING + name)
        until = time.monotonic() + 5
        while inbox.counts.malformed < 1 and time.monotonic() < until:
            inbox.drain()
    assert inbox.counts.malformed == 1 and inbox._rings == []


def test_a_broken_ring_is_given_up_and_counted(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    push(inbox, sender, [ticket.number], [1], columns([0]))
    collected(inbox, ticket.number, 1)
    (ring,) = (each for each in sender._open if isinstance(each, RingWriter))
    ring._counters[0] += 10 * ring._size
    inbox.drain()
    assert inbox.counts.malformed == 1 and inbox._rings == []


def test_what_a_sender_dropped_is_told_by_its_next_frame(inbox: Inbox) -> None:
    sender, ticket = Sender(0, SITES), inbox.open()
    sender._dropped[inbox.address] = 4
    push(inbox, sender, [ticket.number], [1], columns([0]))
    push(inbox, sender, [ticket.number], [1], columns([1]))
    collected(inbox, ticket.number, 2)
    assert inbox.counts.dropped == 4


def test_several_threads_may_drain_and_collect(inbox: Inbox) -> None:
    sender = Sender(0, SITES)
    tickets = [inbox.open() for _ in range(50)]
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            inbox.drain()

    threads = [threading.Thread(target=drain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for token in range(20):
        push(inbox, sender, [t.number for t in tickets], [1] * 50, columns([token] * 50))
    for ticket in tickets:
        assert collected(inbox, ticket.number, 20).projections.tolist() == expected(20)
    stop.set()
    for thread in threads:
        thread.join()
