"""From the rows of a step to an inbox, without an engine; and by way of the thread that GPUs need."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mooring_hooks.inbox import Inbox
from mooring_hooks.readings import Readings, Tickets
from mooring_hooks.rows import Batch
from mooring_hooks.sites import Site

SITES, SLOTS = 2, 8


@pytest.fixture
def inboxes() -> Iterator[list[Inbox]]:
    found = [Inbox(SITES, SLOTS), Inbox(SITES, SLOTS)]
    yield found
    for inbox in found:
        inbox.stop()


def sites() -> list[Site]:
    """Row t of site s has recorded 100 * s + t."""
    found = []
    for site in range(SITES):
        module = nn.Module()
        module.register_buffer("mooring_projections", 100.0 * site + torch.arange(64, dtype=torch.float32))
        found.append(Site(site, module, "next_norm"))
    return found


def batch(*requests: tuple[int, int, int]) -> Batch:
    """Requests as (prompt length, computed, scheduled), all in slot 1."""
    prompt, computed, scheduled = (np.array(column, np.int64) for column in zip(*requests, strict=True))
    return Batch(np.ones(len(prompt), np.int64), prompt, computed, scheduled)


def take(readings: Readings, step: Batch, tickets: list[Any]) -> None:
    readings.take(step, np.ones(int(step.scheduled.sum()), np.int32), Tickets.of(tickets))


def arrived(inbox: Inbox, number: int, tokens: int) -> Any:
    until = time.monotonic() + 2
    while time.monotonic() < until:
        inbox.drain()
        if len(rows := inbox.collect(number, tokens)) == tokens:
            return rows
        time.sleep(0.002)
    return inbox.collect(number, tokens)


def test_only_positions_of_generated_tokens_are_sent(inboxes: list[Inbox]) -> None:
    readings, tickets = Readings(sites(), 0, torch.device("cpu")), [inboxes[0].open() for _ in range(3)]
    step = batch((5, 0, 5), (5, 3, 4), (5, 8, 1))  # a prompt, a resumed answer across its prompt's end, a decode
    take(readings, step, tickets)
    assert arrived(inboxes[0], tickets[1].number, 2).projections.tolist() == [[7, 8], [107, 108]]
    rows = inboxes[0].collect(tickets[2].number, 4)
    assert rows.index.tolist() == [3] and rows.projections.tolist() == [[9], [109]]
    assert len(inboxes[0].collect(tickets[0].number, 5)) == 0


def test_a_batch_that_goes_from_its_prompts_to_decoding_sends_every_position_once(inboxes: list[Inbox]) -> None:
    found = sites()
    readings, asked = Readings(found, 0, torch.device("cpu")), [inboxes[0].open() for _ in range(3)]
    tickets, prompts = Tickets.of(asked), (4, 2, 3)
    steps = [((0, 4), (0, 1), (0, 3)), *(((4 + k, 1), (1 + k, 1), (3 + k, 1)) for k in range(4))]
    for step in steps:
        given = batch(*((prompt, *of) for prompt, of in zip(prompts, step, strict=True)))
        rows = np.arange(int(given.scheduled.sum()), dtype=np.int32) % 2
        for site in found:
            site.module.mooring_projections += 1.0
        readings.take(given, rows, tickets)
    rows_of = [arrived(inboxes[0], ticket.number, 4 if n != 1 else 3) for n, ticket in enumerate(asked)]
    assert [rows.index.tolist() for rows in rows_of] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3]]
    assert rows_of[0].projections.tolist() == [[2, 3, 4, 5], [102, 103, 104, 105]]
    assert rows_of[1].projections.tolist() == [[4, 5, 6], [104, 105, 106]]
    assert rows_of[2].projections.tolist() == [[4, 5, 6, 7], [104, 105, 106, 107]]
    assert rows_of[2].slots.tolist() == [0, 0, 0, 0] and rows_of[1].slots.tolist() == [1, 1, 1]


def test_a_buffer_that_was_replaced_is_read_where_it_is_now(inboxes: list[Inbox]) -> None:
    found = sites()
    readings, ticket = Readings(found, 0, torch.device("cpu")), inboxes[0].open()
    take(readings, batch((1, 1, 1)), [ticket])
    for site in found:
        site.module.mooring_projections = torch.full((64,), -1.0)
    take(readings, batch((1, 2, 1)), [ticket])
    assert arrived(inboxes[0], ticket.number, 2).projections.tolist() == [[0, -1], [100, -1]]


def test_each_answer_goes_to_the_process_that_asked_and_others_nowhere(inboxes: list[Inbox]) -> None:
    readings = Readings(sites(), 0, torch.device("cpu"))
    one, two = inboxes[0].open(), inboxes[1].open()
    take(readings, batch((1, 1, 1), (1, 1, 1), (1, 1, 1)), [two, None, one])
    assert arrived(inboxes[0], one.number, 1).projections.tolist() == [[2], [102]]
    assert arrived(inboxes[1], two.number, 1).projections.tolist() == [[0], [100]]


def test_what_goes_wrong_is_counted_and_told_once_and_never_raised(
    inboxes: list[Inbox], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    readings, ticket = Readings(sites(), 0, torch.device("cpu")), inboxes[0].open()
    with monkeypatch.context() as broken:
        broken.setattr("mooring_hooks.frames.Answers.head", lambda *_: 1 / 0)
        for token in range(3):
            take(readings, batch((1, 1 + token, 1)), [ticket])
    take(readings, batch((1, 4, 1)), [ticket])
    arrived(inboxes[0], ticket.number, 4)
    assert inboxes[0].collect(ticket.number, 4).index.tolist() == [3] and inboxes[0].counts.dropped == 3
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1


def test_a_step_without_anything_to_read_sends_nothing(inboxes: list[Inbox]) -> None:
    readings, ticket = Readings(sites(), 0, torch.device("cpu")), inboxes[0].open()
    take(readings, batch((5, 0, 5)), [ticket])
    take(readings, batch((1, 1, 1)), [None])
    assert not readings._sender._ways


class Waiting(Readings):
    """As on a GPU: the copy is there when `arrive` is set, and a thread sends it."""

    def __init__(self, waiting_steps: int = 256) -> None:
        super().__init__(sites(), 0, torch.device("cpu"))
        self.arrive = threading.Event()
        self._later = queue.Queue(waiting_steps)
        threading.Thread(target=self._work, args=(self._later,), daemon=True).start()

    def _copied(self, count: int) -> Any:
        copied = [site.module.mooring_projections[:count].numpy().copy() for site in self._sites]
        return lambda: (self.arrive.wait(), copied)[1]


def test_the_model_does_not_wait_for_the_copy(inboxes: list[Inbox]) -> None:
    readings, ticket = Waiting(), inboxes[0].open()
    for token in range(3):
        take(readings, batch((1, 1 + token, 1)), [ticket])
    inboxes[0].drain()
    assert len(inboxes[0].collect(ticket.number, 3)) == 0
    readings.arrive.set()
    assert arrived(inboxes[0], ticket.number, 3).index.tolist() == [0, 1, 2]


def test_the_thread_outlives_a_step_that_fails(inboxes: list[Inbox], monkeypatch: pytest.MonkeyPatch) -> None:
    readings, ticket = Waiting(), inboxes[0].open()
    failing = iter([lambda: 1 / 0])
    copied = readings._copied
    monkeypatch.setattr(readings, "_copied", lambda count: next(failing, None) or copied(count))
    readings.arrive.set()
    for token in range(3):
        take(readings, batch((1, 1 + token, 1)), [ticket])
    until = time.monotonic() + 2
    while len(inboxes[0].collect(ticket.number, 3)) < 2 and time.monotonic() < until:
        inboxes[0].drain()
    assert inboxes[0].collect(ticket.number, 3).index.tolist() == [1, 2] and inboxes[0].counts.dropped == 1


def test_steps_are_dropped_when_too_many_wait_and_the_next_frame_says_how_many(inboxes: list[Inbox]) -> None:
    readings, ticket = Waiting(waiting_steps=2), inboxes[0].open()
    for token in range(8):
        take(readings, batch((1, 1 + token, 1)), [ticket])
    readings.arrive.set()
    arrived(inboxes[0], ticket.number, 3)
    take(readings, batch((1, 9, 1)), [ticket])
    until = time.monotonic() + 2
    while inboxes[0].counts.dropped == 0 and time.monotonic() < until:
        inboxes[0].drain()
    assert 4 <= inboxes[0].counts.dropped <= 6
