"""`GET /playground`: the live page, two profiles side by side.

Static files of this package, read once. They hold no data and so need no API key: the page asks for the key when /v1
wants one. Every link in them is relative, so the page works under any root path and behind any proxy. A browser keeps
the files and asks each time whether they have changed, which after an update of the server they have.
"""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}
"""Only the server's own files, none of them inline; a string can never become markup."""

HEADERS: Final = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Named here, not left to the machine's own table of types."""


class File(NamedTuple):
    body: bytes
    kind: str
    tag: str


def _read(folder: Traversable, below: str = "") -> dict[str, File]:
    """Path below `folder` -> file."""
    found: dict[str, File] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _read(entry, f"{below}{entry.name}/")
        else:
            body = entry.read_bytes()
            suffix = "." + entry.name.rpartition(".")[2]
            found[below + entry.name] = File(body, TYPES.get(suffix, "text/plain"), f'"{_digest(body)}"')
    return found


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


FILES: Final = _read(files(__package__) / "static")
router: Final = APIRouter()


async def page(request: Request) -> Response:
    return _answer(request, "index.html")


async def file(request: Request) -> Response:
    path = request.path_params["path"]
    return _answer(request, path) if path else RedirectResponse("../playground", headers=HEADERS)


def _answer(request: Request, path: str) -> Response:
    found = FILES.get(path)
    if found is None:
        return PlainTextResponse(f"the playground has no file {path!r}\n", 404, HEADERS)
    headers = HEADERS | {"ETag": found.tag}
    if found.tag in (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    return Response(found.body, headers=headers, media_type=found.kind)


router.add_route("/playground", page)
router.add_route("/playground/{path:path}", file)
