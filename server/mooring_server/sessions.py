"""Which conversation a request belongs to. The first of these that tells is its session:

    client    vLLM's own `session_id`: body, header X-Session-ID, vllm_xargs
    alias     what other tools send: ALIASES, or what --session-alias names instead
    derived   the conversation itself (conversation.py)
    none      a prompt without a conversation, and no id

Ids are untrusted and may be personal, those of responses too: vLLM takes them from requests. One of at most LONGEST
printable characters is kept as it is, any other as its sha256; a blank one is none.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from mooring_axes.errors import CannotServe
from mooring_server.conversation import Conversation, Place, messages_of
from mooring_server.member import member

ALIASES: Final = (
    "header:Helicone-Session-Id",
    "metadata.session_id",
    "metadata.conversation_id",
    "litellm_session_id",
)
ALIASES_VARIABLE: Final = "MOORING_SESSION_ALIASES"
KEY_VARIABLE: Final = "MOORING_SESSION_KEY"
HEADER: Final = "header:"
LONGEST: Final = 128
KEPT: Final = 10_000


def normalised(session: Any) -> str:
    """The id as it is kept and shown; empty for what is none."""
    if not isinstance(session, str) or not session.strip():
        return ""
    if len(session) <= LONGEST and session.isprintable():
        return session
    return f"sha256:{hashlib.sha256(session.encode('utf-8', 'surrogatepass')).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Sessions:
    """How this server tells sessions."""

    model: str = ""
    aliases: Sequence[str] = ALIASES
    key: bytes = b""
    """Of the hash by which conversations are known: without it an id can be told from the text it was made from."""

    @classmethod
    def of(cls, environment: Mapping[str, str], model: str) -> "Sessions":
        """As `mooring serve` has written it down, or as the operator has."""
        named = environment.get(ALIASES_VARIABLE)
        aliases = ALIASES if named is None else tuple(alias for alias in named.split(",") if alias)
        check(aliases)
        secret = environment.get(KEY_VARIABLE, "").encode()
        return cls(model, aliases, hashlib.sha256(secret).digest() if secret else b"")

    def alias(self, request: Any, headers: Mapping[str, str]) -> str:
        """The id that an alias gives; empty where none does."""
        for alias in self.aliases:
            header, (first, *path) = _place(alias)
            found: Any = headers.get(header) if header else member(request, first)
            for name in path:
                found = found.get(name) if isinstance(found, Mapping) else None
            if session := normalised(found):
                return session
        return ""

    def conversation(self, request: Any, headers: Mapping[str, str], after: Place | None = None) -> Conversation | None:
        """What the request holds of one; None where it holds none."""
        if (atoms := messages_of(request)) is None:
            return None
        asker = headers.get("authorization") or headers.get("x-api-key") or ""
        return Conversation(self.key, (asker, self.model), atoms, after)


class Kept(NamedTuple):
    """A response that another request may go on from."""

    place: Place
    turn: int


class Responses:
    """The last KEPT responses that vLLM keeps, by id: of the Responses API, in this process, as vLLM's own store is."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def keep(self, request: Any, response: str, place: Place, turn: int | None) -> None:
        if response and turn is not None and member(request, "store") is True:
            self._kept[normalised(response)] = Kept(place, turn)
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]

    def before(self, request: Any) -> Kept | None:
        """What a request goes on from, if it names a response instead of saying it again."""
        return self._kept.get(normalised(member(request, "previous_response_id")))


@cache
def _place(alias: str) -> tuple[str, tuple[str, ...]]:
    """Its header, or else its path."""
    header = alias.removeprefix(HEADER)
    return ("", tuple(alias.split("."))) if header == alias else (header, ("",))


def check(aliases: Sequence[str]) -> None:
    """Refuse what could never tell an id."""
    for alias in aliases:
        name = alias.removeprefix(HEADER)
        parts = [name] if alias.startswith(HEADER) else name.split(".")
        if not all(part and part.isascii() and part.replace("-", "").replace("_", "").isalnum() for part in parts):
            raise CannotServe(
                f"--session-alias {alias!r} names no place where a request could hold a session's id\n"
                "  write header:NAME, or the path of a member of the body, as metadata.session_id"
            )
