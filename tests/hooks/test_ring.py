"""Messages through a ring in memory: all of them, in order, whole, however it wraps; none where there is no room."""

import multiprocessing
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mooring_hooks import ring
from mooring_hooks.ring import LENGTH, BrokenRing, RingReader, RingWriter
from mooring_hooks.shared import SharedFolder

SMALL = 4096


class Ends:
    def __init__(self, folder: Path, size: int = SMALL) -> None:
        self.writer = RingWriter(folder, size)
        self.path = folder / self.writer.name
        self.reader = RingReader(self.path)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    found = Ends(tmp_path)
    yield found
    found.writer.close()
    found.reader.close()


def message(pick: random.Random, most: int = 700) -> bytes:
    return pick.randbytes(pick.choice([0, 1, 3, 4, 7, 8, pick.randrange(most)]))


def test_every_message_comes_once_in_order_however_the_ring_wraps(ends: Ends) -> None:
    pick = random.Random(1)
    for _ in range(5000):
        sent = [m for m in (message(pick) for _ in range(pick.randrange(8))) if ends.writer.write(m)]
        assert ends.reader.read() == sent
    assert ends.writer._written > 100 * SMALL


def test_a_full_ring_takes_nothing_and_loses_nothing(ends: Ends) -> None:
    pick, sent, refused = random.Random(2), [], 0
    for _ in range(200):
        while ends.writer.write(m := message(pick)):
            sent.append(m)
        refused += 1
        assert ends.reader.read() == sent
        sent.clear()
    assert refused == 200 and ends.reader.read() == []


@pytest.mark.parametrize("length", [SMALL - LENGTH, SMALL - LENGTH - 8, SMALL])
def test_a_message_may_be_as_big_as_the_ring_and_no_bigger(ends: Ends, length: int) -> None:
    fits = length + LENGTH <= SMALL
    for _ in range(20):
        assert ends.writer.write(b"x" * length) is fits
        assert ends.reader.read() == ([b"x" * length] if fits else [])


def numbers(writer: RingWriter, count: int) -> None:
    pick = random.Random(3)
    for number in range(count):
        payload = struct.pack("<I", number) * (1 + pick.randrange(40))
        while not writer.write(payload):
            time.sleep(0)


def test_two_processes_at_full_speed(tmp_path: Path) -> None:
    count, found = 60_000, 0
    writer = RingWriter(tmp_path, SMALL)
    reader = RingReader(tmp_path / writer.name)
    process = multiprocessing.get_context("fork").Process(target=numbers, args=(writer, count))
    process.start()
    until = time.monotonic() + 60
    while found < count:
        assert time.monotonic() < until
        for payload in reader.read():
            assert payload == struct.pack("<I", found) * (len(payload) // 4)
            found += 1
    process.join()
    assert process.exitcode == 0 and reader.read() == []


def test_the_name_is_gone_once_both_have_it_and_others_cannot_read_it(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path, SMALL)
    assert (tmp_path / writer.name).stat().st_mode & 0o777 == 0o600
    reader = RingReader(tmp_path / writer.name)
    assert list(tmp_path.iterdir()) == []
    writer.write(b"still there")
    assert reader.read() == [b"still there"]


def test_what_no_ring_wrote_is_told(ends: Ends) -> None:
    ends.writer.write(b"x" * 16)
    ends.writer._data[:LENGTH] = (SMALL * 2).to_bytes(LENGTH, "little")
    with pytest.raises(BrokenRing):
        ends.reader.read()


def test_no_room_for_a_ring_is_an_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ring.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        RingWriter(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_memory() -> Iterator[Path]:
    folder = SharedFolder()
    yield folder.path
    folder.remove()


def test_all_of_its_memory_is_there_from_the_beginning(in_memory: Path) -> None:
    size = 4 * 2**20
    before = psutil.Process().memory_info().rss
    writer = RingWriter(in_memory, size)
    made = psutil.Process().memory_info().rss
    assert made - before > 0.9 * size
    for _ in range(64):
        assert writer.write(b"x" * (size // 80))
    assert psutil.Process().memory_info().rss - made < 0.1 * size
    writer.close()
