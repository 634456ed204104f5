"""Puts Mooring's object into an answer's bytes without parsing them.

What vLLM wrote goes out as vLLM wrote it: an object before the last brace of a JSON body, or of one frame of a
stream. A marker holds a bare quote or a bare line break, which inside JSON text would be escaped: where the marker
stands, it is structure.
"""

from typing import Final, NamedTuple


class Route(NamedTuple):
    """An endpoint that generates, and what its streams look like."""

    name: str
    """As records call it."""
    last: bytes
    """Marks the frame in which an answer ends."""
    token: bytes
    """Marks frames that carry text."""
    inner: bytes = b""
    """The object in that frame to extend, if it is not the frame's own."""
    prompts: bool = False
    """Whether a request may hold several prompts, each with answers of its own."""


CHAT: Final = Route("chat", b'"finish_reason":"', b'"choices":[{')
ROUTES: Final = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": CHAT._replace(name="completions", prompts=True),
    "/v1/responses": Route(
        "responses", b"event: response.completed\n", b"event: response.output_text.delta\n", b'"response":{'
    ),
    "/v1/messages": Route("messages", b"event: message_delta\n", b"event: content_block_delta\n"),
}


def is_object(body: bytes) -> bool:
    """Whether a body can be extended: vLLM answers `null` to a client that has hung up."""
    return body.rstrip().endswith(b"}")


def into_body(body: bytes, member: bytes) -> bytes:
    """`member` ('"name":value') as the last one of a JSON object; what is none stays as it is."""
    if not is_object(body):
        return body
    end = body.rindex(b"}")
    return body[:end] + _comma(body[:end]) + member + body[end:]


def into_frame(chunk: bytes, marker: bytes, member: bytes, inner: bytes = b"") -> bytes:
    """`member` as the last one of the first marked frame of a chunk of server-sent events, or the first of `inner`."""
    at = chunk.index(marker)
    stop = chunk.find(b"\n\n", at)
    stop = len(chunk) if stop < 0 else stop
    if inner and (place := chunk.find(inner, at, stop)) >= 0:
        begin = place + len(inner)
        return chunk[:begin] + member + (b"" if chunk[begin : begin + 1] == b"}" else b",") + chunk[begin:]
    end = chunk.rindex(b"}", at, stop)
    return chunk[:end] + _comma(chunk[:end]) + member + chunk[end:]


def _comma(before: bytes) -> bytes:
    return b"" if before.rstrip().endswith(b"{") else b","
