"""Where an answer stands in its conversation, as hashes of what was said up to there; no text is kept.

A client sends its whole conversation again with every request. So the conversation up to an answer, hashed, is the
answer's *node*; the next request holds that answer as its last one, and hashes to the same: its *parent*. An edit
gives another hash and so another branch, never a wrong join. Whoever shares the first answer shares the session:

    session   the conversation up to and with its first answer: this one at turn 1, else the one in the request

The hash is keyed, and begins with who asked and which model: equal in all processes and replicas with one key. What
an assistant says before the first user's message is a greeting, not an answer. What it says at the end of a request
is the beginning of the answer: texts that it says one after another count as one.

Clients may send a text as a string or in parts, trim it, change its line ends, drop the reasoning and name tool calls
anew; none of that changes the hash. An opening that many conversations share, answer included (examples in front of
every request), is one session that branches there: such clients should name their sessions.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from mooring_server.member import member

ASSISTANT: Final = "assistant"
EDGE: Final = 1024
"""Characters at either end of an image or a file that stand for it: it may hold megabytes."""


class Atom(NamedTuple):
    """One text, as it was sent, or one tool call."""

    role: str
    kind: str
    text: str


class Place(NamedTuple):
    """Of an answer, in its conversation."""

    session: str
    node: str
    parent: str


NOWHERE: Final = Place("", "", "")
_SPOKEN: Final = (ASSISTANT, "text")


class Conversation:
    """The part of one that a request holds."""

    def __init__(self, key: bytes, scope: Sequence[str], atoms: Iterable[Atom], after: Place | None = None) -> None:
        """`after` is the answer that the request goes on from without saying it again."""
        self._hash = hashlib.blake2b(key=key, digest_size=16)
        self._saying: list[str] = []
        """Pieces of the assistant's text that the next atom may go on with."""
        for name in scope if after is None else (*scope, after.node):
            self._add(Atom("", "scope", name))
        answers: list[str] = []
        asked = speaking = False
        for atom in atoms:
            if speaking and atom.role != ASSISTANT:
                self._end_text()
                answers.append(self._hash.hexdigest())
            self._add(atom)
            asked = asked or atom.role == "user"
            speaking = asked and atom.role == ASSISTANT
        first, parent = (answers[0], answers[-1]) if answers else ("", "")
        self._session = after.session if after is not None else f"conv-{first}" if first else ""
        self._parent = parent or (after.node if after is not None else "")

    def answered(self, said: Iterable[Atom]) -> Place:
        """Where the answer that says this stands."""
        before, self._hash, self._saying = (self._hash, self._saying), self._hash.copy(), [*self._saying]
        for atom in said:
            self._add(atom)
        self._end_text()
        node = self._hash.hexdigest()
        self._hash, self._saying = before
        return Place(self._session or f"conv-{node}", node, self._parent)

    def _add(self, atom: Atom) -> None:
        if atom[:2] == _SPOKEN:
            self._saying.append(atom.text)
        else:
            self._end_text()
            self._update(atom)

    def _end_text(self) -> None:
        if self._saying:
            self._update(Atom(*_SPOKEN, "".join(self._saying)))
            self._saying = []

    def _update(self, atom: Atom) -> None:
        role, kind, said = atom
        said = _trimmed(said) if kind == "text" else said
        told = f"{len(role)}:{role}{len(kind)}:{kind}{len(said)}:{said}"  # no two lists of atoms give the same text
        self._hash.update(told.encode("utf-8", "surrogatepass"))


def spoken(role: str, content: Any, calls: Iterable[tuple[str, Any]] = ()) -> Iterator[Atom]:
    """The atoms of one message: its text, if it says any or nothing else, and its tool calls (name, arguments)."""
    found = [Atom(role, "call", f"{name}({_settled(arguments)})") for name, arguments in calls]
    if (said := _text(content)).strip() or not found:
        yield Atom(role, "text", said)
    yield from found


def messages_of(request: Any) -> Iterator[Atom] | None:
    """What a request of vLLM's says; None where it holds no conversation, as a completion's prompt."""
    if isinstance(messages := member(request, "messages"), list):
        if member(request, "echo") is True and messages and _get(messages[-1], "role") == ASSISTANT:
            messages = messages[:-1]  # the answer says it again
        return (atom for message in messages for atom in _message(message))
    if (said := member(request, "input")) is not None:
        return _items(member(request, "instructions"), said)
    return None


def _message(message: Any) -> Iterator[Atom]:
    role = str(_get(message, "role") or "")
    calls = _get(message, "tool_calls")
    functions = [_get(each, "function") for each in calls] if isinstance(calls, list) else []
    called = [(str(_get(f, "name") or ""), _get(f, "arguments")) for f in functions]
    return spoken("system" if role == "developer" else role, _content(message), called)


def _content(message: Any) -> Any:
    """pydantic leaves some lists of parts as iterators, which can be read once.

    If vLLM has read one already, nobody knows what it said: then it is like no other, so as never to join wrongly.
    """
    content = _get(message, "content")
    if not isinstance(content, Iterator):
        return content
    try:
        parts = list(content)
    except ValueError:  # as pydantic's errors are: a part of no kind that vLLM knows
        parts = []
    if parts and isinstance(message, dict):
        message["content"] = parts  # for whoever reads it next
    return parts or secrets.token_hex(16)


def _items(instructions: Any, said: Any) -> Iterator[Atom]:
    """Of the Responses API."""
    if instructions:
        yield from spoken("system", instructions)
    for item in [{"role": "user", "content": said}] if isinstance(said, str) else said:
        kind = _get(item, "type") or "message"
        if kind == "message":
            yield from _message(item)
        elif kind == "function_call":
            yield from spoken(ASSISTANT, None, [(str(_get(item, "name") or ""), _get(item, "arguments"))])
        elif kind == "function_call_output":
            yield from spoken("tool", _get(item, "output"))
        elif kind != "reasoning":
            yield Atom("other", str(kind), _outline(item))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    return "".join(map(_part, content if isinstance(content, list) else [content]))


def _part(part: Any) -> str:
    """A part's text; of an image, a file and the like an outline."""
    if isinstance(part, str):
        return part
    for name in ("text", "refusal"):
        if isinstance(found := _get(part, name), str):
            return found
    return "" if _get(part, "type") in ("thinking", "reasoning") else _outline(part)


def _outline(part: Any) -> str:
    try:
        told = repr(part)
    except RecursionError:
        return type(part).__name__
    return told if len(told) <= 2 * EDGE else f"{told[:EDGE]}{len(told)}{told[-EDGE:]}"


def _trimmed(said: str) -> str:
    return (said.replace("\r\n", "\n") if "\r" in said else said).strip()


def _settled(arguments: Any) -> str:
    """JSON with its keys in order and no spaces, so that a client may write it anew; vLLM decodes some in place."""
    try:
        decoded = msgspec.json.decode(arguments or "{}") if isinstance(arguments, str) else arguments or {}
        return msgspec.json.encode(decoded, order="deterministic").decode()
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError):
        return arguments.strip() if isinstance(arguments, str) else _outline(arguments)


def _get(of: Any, name: str) -> Any:
    return of.get(name) if isinstance(of, dict) else getattr(of, name, None)
