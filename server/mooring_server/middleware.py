"""Raw ASGI around vLLM's application: the profile in, the readings out.

A body goes out when its readings are there, of a stream only the frame in which an answer ends waits. Whatever is
not a successful answer of a generating endpoint passes through untouched, and so does an answer of which no reading can
be made: that is counted as lost, and fails no answer. Once the client has its answer, or has hung up, whoever keeps,
counts or shows answers gets the records.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import closing

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mooring_server.choice import HEADER
from mooring_server.metrics import READINGS_LOST
from mooring_server.record import Record
from mooring_server.report import final_member, tokens_member
from mooring_server.said import Said
from mooring_server.splice import ROUTES, Route, into_body, into_frame, is_object
from mooring_server.turn import CURRENT, Meter, Turn

logger = logging.getLogger("mooring")


def _failed() -> None:
    READINGS_LOST.inc()
    logger.exception("the reading of an answer failed; the answer goes out without it")


class MooringMiddleware:
    """See the head of this file; `meter` returns None where readings are switched off."""

    def __init__(self, app: ASGIApp, meter: Callable[[], Meter | None]) -> None:
        self.app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = str(scope["path"]).removeprefix(scope.get("root_path", ""))
        route = ROUTES.get(path) if scope["method"] == "POST" else None
        meter = self._meter() if route is not None else None
        turn = Turn(route, Headers(scope=scope), meter)
        reply = Reply(turn, route, send, measured=meter is not None)
        token = CURRENT.set(turn)
        try:
            with closing(turn), closing(reply):  # the reply first: it tells what the turn still holds
                await self.app(scope, receive, reply.send)
        finally:
            CURRENT.reset(token)


class Reply:
    """Watches one response go out."""

    def __init__(self, turn: Turn, route: Route | None, send: Send, measured: bool) -> None:
        self._turn, self._route, self._send, self._measured = turn, route, send, measured
        self._start: Message | None = None
        self._body: list[bytes] = []
        self._streaming = self._refused = self._wants_tokens = False
        self._last, self._token = (b"", b"") if route is None else (route.last, route.token)
        self._listens = True
        """Whether what a stream says is still wanted."""
        self._ended = 0
        self._said = Said(route.name) if route is not None else None
        self._records: list[Record] | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """What the application calls. A piece of a stream that is left alone, as nearly all are, costs no coroutine."""
        if self._streaming:
            chunk = message.get("body", b"")
            if self._listens:
                self._listen(chunk)
            if self._last in chunk or (self._wants_tokens and self._token in chunk):
                return self._on_piece(message, chunk)
        elif message["type"] == "http.response.start":
            return self._on_start(message)
        elif message["type"] == "http.response.body" and self._start is not None:
            return self._on_body(message)
        return self._send(message)

    def close(self) -> None:
        """Tell what has been answered, or how far it had come."""
        turn, said = self._turn, self._said
        if not self._measured or said is None or turn.profile is None or not turn.answered or self._refused:
            return
        try:
            if self._records is None:
                self._records = turn.records(turn.so_far(), said, finished=False)
            turn.tell(self._records)
        except Exception:
            _failed()

    async def _on_start(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        if self._turn.profile is not None:  # known before the first byte: it is settled when parameters are read
            headers[HEADER] = self._turn.profile
        kind = headers.get("content-type", "").partition(";")[0]
        self._refused = message["status"] != 200
        answers = self._measured and not self._refused and self._turn.profile is not None
        self._streaming = answers and kind == "text/event-stream"
        self._wants_tokens = self._turn.wants_tokens
        if answers and kind == "application/json":
            self._start = message  # its content-length is not known yet
        else:
            await self._send(message)

    async def _on_body(self, message: Message) -> None:
        self._body.append(message.get("body", b""))
        if message.get("more_body"):
            return
        assert self._start is not None
        body = b"".join(self._body)
        if self._turn.answered and is_object(body):
            body = await self._or(body, self._measured_body(body))
            MutableHeaders(scope=self._start)["content-length"] = str(len(body))
        await self._send(self._start)
        await self._send({**message, "body": body})

    def _listen(self, chunk: bytes) -> None:
        assert self._said is not None
        try:
            self._said.frames(chunk)
        except Exception:
            _failed()
        self._listens = self._said.listens

    async def _on_piece(self, message: Message, chunk: bytes) -> None:
        await self._send({**message, "body": await self._or(chunk, self._framed(chunk))})

    @staticmethod
    async def _or(otherwise: bytes, made: Awaitable[bytes]) -> bytes:
        """What was made, or what vLLM has said where it could not be made."""
        try:
            return await made
        except Exception:
            _failed()
            return otherwise

    async def _measured_body(self, body: bytes) -> bytes:
        assert self._said is not None
        self._said.body(body)
        return into_body(body, await self._member())

    async def _framed(self, chunk: bytes) -> bytes:
        turn, route = self._turn, self._route
        assert route is not None
        if route.last in chunk:
            self._ended += chunk.count(route.last)
            if turn.answered and self._ended == max(len(turn.answers()), 1):
                return into_frame(chunk, route.last, await self._member(), route.inner)
        elif turn.measured:
            member = tokens_member(turn)
            return chunk if member is None else into_frame(chunk, route.token, member)
        return chunk

    async def _member(self) -> bytes:
        assert self._said is not None
        readings = await self._turn.settle()
        self._records = self._turn.records(readings, self._said, finished=True)
        return final_member(self._turn, readings, self._records)
