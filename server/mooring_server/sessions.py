"""Which conversation a request belongs to. The first of these that tells is its session:

    client    vLLM's own `session_id`: body, header X-Session-ID, vllm_xargs
    alias     what other tools send: ALIASES, or what --session-alias names instead
    derived   the conversation itself (conversation.py)
    none      a prompt without a conversation, and no id

Ids are untrusted and may be personal. One of at most LONGEST printable characters is kept as it is, any other as its
sha256; a blank one is none.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mooring_axes.errors import CannotServe
from mooring_server.conversation import Conversation, messages_of

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
            found: Any
            if alias.startswith(HEADER):
                found = headers.get(alias.removeprefix(HEADER))
            else:
                first, *path = alias.split(".")
                found = getattr(request, first, None)
                for name in path:
                    found = found.get(name) if isinstance(found, Mapping) else None
            if session := normalised(found):
                return session
        return ""

    def conversation(self, request: Any, headers: Mapping[str, str]) -> Conversation | None:
        """What the request holds of one; None where it holds none."""
        if (atoms := messages_of(request)) is None:
            return None
        asker = headers.get("authorization") or headers.get("x-api-key") or ""
        return Conversation(self.key, (asker, self.model), atoms)


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
