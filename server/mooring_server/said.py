"""What a reply says, read from the bytes that go out: the id of the response and the words of each choice.

The words are wanted as the client gets them, because that is how they come back in its next request. Only the few
members that matter are decoded; what cannot be decoded is left out, and the answer goes out as it is.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from mooring_server.conversation import ASSISTANT, Atom, spoken

DATA: Final = b"data: {"


class Words:
    """What has come of one choice."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, list[str]] = {}
        """Index -> the call's name, then the pieces of its arguments."""

    def say(self, text: str | None) -> None:
        if text:
            self._text.append(text)

    def call(self, index: int, name: str | None, arguments: str | None) -> None:
        call = self._calls.setdefault(index, [name or ""])
        call.append(arguments or "")

    def atoms(self) -> list[Atom]:
        calls = [(name, "".join(pieces)) for name, *pieces in self._calls.values()]
        return list(spoken(ASSISTANT, "".join(self._text), calls))


class Said:
    """Feed it a body or the frames of a stream; `route` is the route's name."""

    def __init__(self, route: str) -> None:
        self.response = ""
        """Id of the response, once it is known."""
        self._take = READERS[route]
        self._words: dict[int, Words] = {}
        self.whole: list[Atom] | None = None
        """All that was said, where the end of a stream says it again."""

    def body(self, body: bytes) -> None:
        try:
            self._take(self, body)
        except msgspec.DecodeError:  # `null`, for a client that has hung up
            return

    @property
    def listens(self) -> bool:
        """Whether more frames have more to say: of completions the id is all that is wanted."""
        return not self.response or self._take is not _completions

    def frames(self, chunk: bytes) -> None:
        at = chunk.find(DATA)
        while at >= 0:
            end = chunk.find(b"\n\n", at)
            self.body(chunk[at + len(DATA) - 1 : len(chunk) if end < 0 else end])
            at = chunk.find(DATA, end) if end >= 0 else -1

    def words(self, choice: int = 0) -> Words:
        return self._words.setdefault(choice, Words())

    def atoms(self, choice: int) -> list[Atom]:
        """What a choice has said so far."""
        return self.words(choice).atoms() if self.whole is None else self.whole


# --- chat completions; of completions only the id ------------------------------------------------


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct):
    index: int | None = None
    function: _Function | None = None


class _Message(Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None


class _Chat(Struct):
    id: str = ""
    choices: list[_Choice] = []


class _Id(Struct):
    id: str = ""


def _chat(said: Said, payload: bytes) -> None:
    found = _CHAT.decode(payload)
    said.response = found.id or said.response
    for choice in found.choices:
        if (message := choice.message or choice.delta) is not None:
            words = said.words(choice.index)
            words.say(message.content)
            for place, call in enumerate(message.tool_calls or ()):
                of = call.function or _Function()
                words.call(place if call.index is None else call.index, of.name, of.arguments)


def _completions(said: Said, payload: bytes) -> None:
    said.response = said.response or _ID.decode(payload).id


# --- responses -----------------------------------------------------------------------------------


class _Item(Struct):
    type: str = ""
    content: Any = None
    name: str = ""
    arguments: str = ""


class _Response(Struct):
    """Itself, or an event of its stream."""

    id: str = ""
    output: list[_Item] = []
    type: str = ""
    response: "_Response | None" = None
    delta: Any = None


def _responses(said: Said, payload: bytes) -> None:
    found = _RESPONSE.decode(payload)
    whole = found.response or found
    said.response = said.response or (whole.id if whole.output or found.response else "")
    if whole.output:
        said.whole = [atom for item in whole.output for atom in _item(item)]
    elif found.type == "response.output_text.delta" and isinstance(found.delta, str):
        said.words().say(found.delta)


def _item(item: _Item) -> list[Atom]:
    if item.type == "message":
        return list(spoken(ASSISTANT, item.content))
    return list(spoken(ASSISTANT, None, [(item.name, item.arguments)])) if item.type == "function_call" else []


# --- messages ------------------------------------------------------------------------------------


class _Block(Struct):
    type: str = ""
    text: str | None = None
    name: str = ""
    input: Any = None


class _Delta(Struct):
    text: str | None = None
    partial_json: str | None = None


class _Event(Struct):
    """Of a stream, or the message itself."""

    id: str = ""
    content: list[_Block] = []
    message: _Id | None = None
    index: int = 0
    content_block: _Block | None = None
    delta: _Delta | None = None


def _messages(said: Said, payload: bytes) -> None:
    found = _EVENT.decode(payload)
    said.response = said.response or found.id or (found.message.id if found.message else "")
    words, streamed = said.words(), found.content_block
    for index, block in [*enumerate(found.content), *([(found.index, streamed)] if streamed else [])]:
        words.say(block.text)
        if block.type == "tool_use":
            words.call(index, block.name, None if streamed else msgspec.json.encode(block.input).decode())
    if found.delta is not None:
        words.say(found.delta.text)
        if found.delta.partial_json:
            words.call(found.index, None, found.delta.partial_json)


_CHAT: Final = msgspec.json.Decoder(_Chat)
_ID: Final = msgspec.json.Decoder(_Id)
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_EVENT: Final = msgspec.json.Decoder(_Event)
READERS: Final[dict[str, Callable[[Said, bytes], None]]] = {
    "chat": _chat, "completions": _completions, "responses": _responses, "messages": _messages,
}  # fmt: skip
