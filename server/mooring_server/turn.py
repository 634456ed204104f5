"""One HTTP request to a model, from what it asked for to what its answer reads.

The middleware opens a turn and closes it; in between it is found by a context variable, wherever vLLM handles the
request. Every call of the engine's `generate` becomes a *part* with a ticket of its own. A reading is complete when
every generated token but the last, which is never run through the model, has one.
"""

import asyncio
import copy
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, Final

import numpy as np

from mooring_hooks.engine import TRUST
from mooring_hooks.frames import Ticket
from mooring_hooks.inbox import Inbox, Rows
from mooring_hooks.measure import Measure, Reading
from mooring_server import metrics
from mooring_server.conversation import NOWHERE
from mooring_server.member import member
from mooring_server.record import NO_ARM, Record, Sinks
from mooring_server.said import Said
from mooring_server.sessions import Responses, Sessions, normalised
from mooring_server.splice import Route
from mooring_server.thinking import Thinking

PATIENCE: Final = 0.05
"""Seconds that an answer may wait for its last readings."""
POLL: Final = 0.001
SWEEP: Final = 0.1
"""Seconds between two looks at what has come while answers are open."""


class Meter:
    """What all turns of a process share."""

    def __init__(
        self,
        inbox: Inbox,
        measure: Measure,
        slots: dict[str, int],
        thinking: Thinking | None,
        sessions: Sessions,
    ) -> None:
        self.inbox, self.measure, self.slots, self.thinking = inbox, measure, slots, thinking
        self.sessions, self.responses = sessions, Responses()
        self.sinks = Sinks(failed=lambda name: metrics.SINK_ERRORS.labels(name).inc())
        self._sweeper: asyncio.Task[None] | None = None
        self._counted = inbox.counts

    def drain(self) -> None:
        self.inbox.drain()
        if (now := self.inbox.counts) != self._counted:
            metrics.FRAMES_MALFORMED.inc(now.malformed - self._counted.malformed)
            metrics.FRAMES_DROPPED.inc(now.dropped - self._counted.dropped)
            self._counted = now

    def sweep(self) -> None:
        """Look now and then at what has come until no answer is open, so that frames never pile up."""
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._keep_sweeping())

    async def _keep_sweeping(self) -> None:
        while self.inbox.waiting:
            self.drain()
            await asyncio.sleep(SWEEP)
        self.drain()


_NO_TOKENS: Final = np.zeros((0, 0), np.float32)
UNMEASURED: Final = Reading(0, False, None, None, None, None, {}, np.zeros(0, np.int32), _NO_TOKENS, _NO_TOKENS)
"""Of an answer that is not measured at all."""


class Part:
    """One call of `generate`: the answers to one prompt."""

    def __init__(self, meter: Meter, answers: int, delta: bool) -> None:
        self._meter, self._thinking, self._delta = meter, meter.thinking, delta
        self.ticket: Ticket = meter.inbox.open(answers)
        self.lengths = [0] * answers
        self.ended = False
        """Whether `generate` has said all it had to say."""
        self._tokens: list[list[int]] = [[] for _ in range(answers)]
        self._opened: bool | None = None
        """Whether its answers begin as thinking, once that is known."""

    def note(self, output: Any) -> None:
        """Count the tokens of a RequestOutput, which are all so far or, in a stream, the new ones."""
        for answer in output.outputs:
            index, new = answer.index, answer.token_ids
            before = self.lengths[index] if self._delta else 0
            self.lengths[index] = before + len(new)
            if self._thinking is not None:
                self._tokens[index][before:] = new
                if self._opened is None and output.prompt_token_ids is not None:
                    self._opened = self._thinking.opened_by(output.prompt_token_ids)

    def wanted(self, answer: int) -> int:
        return max(self.lengths[answer] - 1, 0)

    @property
    def known(self) -> bool:
        """Whether it is known how many tokens there are: not of an answer that is given whole, before it is."""
        return self._delta or self.ended or any(self.lengths)

    def rows(self, answer: int, start: int = 0) -> Rows:
        """Those of positions from `start` on; one whose projection is no number has none."""
        number = self.ticket.number + answer
        rows = self._meter.inbox.collect(number, self.wanted(answer) if self.known else None, start)
        if math.isfinite(np.add.reduce(rows.projections, axis=None, dtype=np.float64)):  # as nearly always
            return rows
        return rows.where(np.isfinite(rows.projections).all(axis=0))

    def thinking(self, answer: int) -> int:
        """How many of the answer's first tokens are not part of what it says."""
        return 0 if self._thinking is None else self._thinking.length(self._tokens[answer], bool(self._opened))


class Answer:
    """What one choice of the reply reads: of one part, or of several that one answer took."""

    def __init__(self) -> None:
        self._parts: list[tuple[Part, int]] = []
        self._next: list[int] = []
        """Of each part, the first position that `news` has not told."""
        self._told = 0

    def add(self, part: Part, choice: int) -> None:
        self._parts.append((part, choice))
        self._next.append(0)

    @property
    def tokens(self) -> int:
        return sum(part.lengths[i] for part, i in self._parts)

    def rows(self) -> tuple[Rows, bool]:
        """The rows that have come, and whether that is all of them."""
        complete, spoken = True, []
        for part, i in self._parts:
            rows = part.rows(i)
            complete = complete and part.known and len(rows) == part.wanted(i)
            spoken.append(rows.since(part.thinking(i)))
        return Rows.joined(spoken), complete

    def news(self, most: int) -> Rows | None:
        """The rows that have come since the last call; `most` in all, and None where there are none."""
        found = []
        for place, (part, i) in enumerate(self._parts):
            if self._told < most:
                start = max(self._next[place], part.thinking(i))
                rows = part.rows(i, start).first(most - self._told)
                self._next[place] = int(rows.index[-1]) + 1 if len(rows) else start
                self._told += len(rows)
                found.append(rows)
        return Rows.joined(found) if any(map(len, found)) else None


class Turn:
    """See the head of this file."""

    def __init__(self, route: Route | None, headers: Mapping[str, str], meter: Meter | None) -> None:
        self.headers = headers
        self.began = time.time_ns()
        self.request: Any = None
        """As vLLM has parsed it."""
        self.profile: str | None = None
        """What the request runs under, once that is known."""
        self.number: int | None = None
        """1 for the first answer of a conversation; None where there is none to count."""
        self.session = ""
        """As the client names it."""
        self.identity = "none"
        """Who named the session; see sessions.py."""
        self.arm = NO_ARM
        """Of the experiment."""
        self.wants_tokens = False
        self.beam_search = False
        """Whether it runs as many small requests of which none is the answer: these are not measured."""
        self._route, self._meter, self._open = route, meter, True
        self._parts: list[Part] = []
        self._answers: list[Answer] = []
        self._placed = 0
        """Parts that belong to answers already."""

    @property
    def measured(self) -> bool:
        return bool(self._parts)

    @property
    def answered(self) -> bool:
        """Whether the model was asked at all."""
        return self.measured or self.beam_search

    def answers(self) -> list[Answer]:
        """By choice index: each prompt has its own, else what belongs to the same choice is one answer."""
        several = self._route is not None and self._route.prompts
        for part in self._parts[self._placed :]:
            first = len(self._answers) if several else 0
            for choice in range(len(part.lengths)):
                if first + choice == len(self._answers):
                    self._answers.append(Answer())
                self._answers[first + choice].add(part, choice)
        self._placed = len(self._parts)
        return self._answers

    def follow(self, generate: Callable[..., AsyncIterator[Any]], prompt: Any, params: Any, *a: Any, **k: Any) -> Any:
        """Call `generate` with a ticket, and count what it yields."""
        self.identify(k.get("session_id"))
        meter = self._meter
        if (
            meter is None
            or self._route is None
            or not self._open
            or self.beam_search
            or member(self.request, "background")  # its reply goes out before it is answered
            or not hasattr(params, "output_kind")
        ):
            return generate(prompt, params, *a, **k)
        part = Part(meter, params.n, params.output_kind.name == "DELTA")
        self._parts.append(part)
        meter.sweep()
        params = copy.copy(params)
        params.extra_args = (params.extra_args or {}) | part.ticket.to_extra_args(TRUST)
        return _noting(generate(prompt, params, *a, **k), part)

    def identify(self, session_id: Any) -> None:
        """Settle who names the session; `session_id` is vLLM's own idea of it."""
        if self._meter is None or self.session:
            return
        if session := normalised(session_id):
            self.session, self.identity = session, "client"
        elif session := self._meter.sessions.alias(self.request, self.headers):
            self.session, self.identity = session, "alias"

    async def settle(self) -> list[Reading]:
        """Each answer's reading, after a bounded wait for what is missing; none where it is not measured."""
        assert self._meter is not None
        if not self.measured:
            return []
        until = asyncio.get_running_loop().time() + PATIENCE
        while True:
            self._meter.drain()
            found = [answer.rows() for answer in self.answers()]
            if all(complete for _, complete in found) or asyncio.get_running_loop().time() > until:
                break
            await asyncio.sleep(POLL)
        if lost := sum(not complete for _, complete in found):
            metrics.READINGS_LOST.inc(lost)
        return [self.measure.read(rows, self.slot, complete) for rows, complete in found]

    def drained(self) -> list[Answer]:
        """The answers, with all that has come."""
        assert self._meter is not None
        self._meter.drain()
        return self.answers()

    def so_far(self) -> list[Reading]:
        """Each answer's reading from what has come, without a wait."""
        found = [answer.rows() for answer in self.drained()]
        return [self.measure.read(rows, self.slot, complete) for rows, complete in found]

    def records(self, readings: Sequence[Reading], said: Said, finished: bool) -> list[Record]:
        """What everyone is told of the answers; of those to beam search, which are not measured, one."""
        assert self._meter is not None and self._route is not None and self.profile is not None
        sessions, responses = self._meter.sessions, self._meter.responses
        before = responses.before(self.request)
        number = self.number if before is None or self.number is None else self.number + before.turn
        conversation = sessions.conversation(self.request, self.headers, before and before.place)
        found = []
        for choice, reading in enumerate(readings or [UNMEASURED]):
            place = NOWHERE if conversation is None else conversation.answered(said.atoms(choice))
            responses.keep(self.request, said.response, place, number)
            found.append(
                Record(
                    at=time.time(),
                    response=normalised(said.response),
                    choice=choice,
                    route=self._route.name,
                    model=sessions.model,
                    profile=self.profile,
                    arm=self.arm,
                    session=self.session or place.session,
                    identity=self.identity if self.session else "derived" if place.session else "none",
                    turn=number,
                    node=place.node,
                    parent=place.parent,
                    tokens=max(self.answers()[choice].tokens, reading.tokens) if readings else 0,
                    measured_tokens=reading.tokens,
                    lifted_tokens=round((reading.lifted_share or 0.0) * reading.tokens),
                    projection=reading.projection,
                    drift=reading.drift,
                    mean_lift=reading.mean_lift,
                    complete=reading.complete,
                    finished=finished,
                    layers=reading.layers,
                )
            )
        return found

    def tell(self, records: Sequence[Record]) -> None:
        """Give them to everyone who keeps, counts or shows answers."""
        assert self._meter is not None
        self._meter.sinks.tell(records)

    def close(self) -> None:
        self._open = False
        for part in self._parts:
            assert self._meter is not None
            self._meter.inbox.close(part.ticket)

    @property
    def measure(self) -> Measure:
        assert self._meter is not None
        return self._meter.measure

    @property
    def slot(self) -> int:
        assert self._meter is not None and self.profile is not None
        return self._meter.slots[self.profile]


CURRENT: ContextVar[Turn | None] = ContextVar("mooring_turn", default=None)


def measured(generate: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """The engine's `generate`, for whom a turn is open. A plain function: it looks when it is called, not later."""

    def generate_measured(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        turn = CURRENT.get()
        if turn is None:
            return generate(prompt, sampling_params, *args, **kwargs)
        outputs: AsyncIterator[Any] = turn.follow(generate, prompt, sampling_params, *args, **kwargs)
        return outputs

    return generate_measured


async def _noting(outputs: Any, part: Part) -> AsyncIterator[Any]:
    async with aclosing(outputs):
        async for output in outputs:
            part.note(output)
            yield output
    part.ended = True
