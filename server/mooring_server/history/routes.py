"""What has been kept, over HTTP: sessions, their turns, erasure, and turns as they end.

Reads run in threads, few at a time, on connections of their own: the event loop never waits for a database.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import anyio
import msgspec
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from mooring_hooks.progress import say
from mooring_server.history.branches import branches
from mooring_server.history.live import Live
from mooring_server.history.queries import BadCursor, Filter, Order, SessionQuery
from mooring_server.history.shape import session_row, turn_row
from mooring_server.history.store import Store
from mooring_server.sessions import normalised

router = APIRouter(prefix="/v1/mooring", tags=["mooring"])
READERS: Final = 4
"""Reads at a time; more wait for their turn."""
TURNS_MOST: Final = 2000
"""Turns of a session that are told at once: the last ones."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the routes ask; `store` is None where no history is kept."""

    store: Store | None
    live: Live
    readers: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(READERS))


class Session(BaseModel):
    """One session under one model, profile and arm: a conversation that went on under another has one more."""

    session: str
    identity: str = Field(description="where the id is from: client, alias, derived or none")
    model: str
    profile: str
    arm: str
    first_at: float = Field(description="Unix seconds at which its first turn ended")
    last_at: float
    turns: int
    mean_drift: float | None = Field(description="mean over its turns; null where none has a drift")
    max_drift: float | None
    last_drift: float | None
    lifted_share: float | None = Field(description="of its measured tokens")


class Sessions(BaseModel):
    sessions: list[Session]
    next: str | None = Field(description="cursor of the next page; null at the end")


class Layer(BaseModel):
    projection: float | None
    lift: float | None
    lifted_share: float | None


class KeptTurn(BaseModel):
    at: float = Field(description="Unix seconds at which the answer ended")
    response: str
    choice: int
    route: str
    model: str
    profile: str
    arm: str
    session: str
    identity: str
    turn: int | None
    node: str = Field(description="hash of the conversation up to and with this answer")
    parent: str = Field(description="the same of the conversation that it answers")
    branch: int = Field(description="0 is the first; an edited message or another choice opens the next")
    tokens: int
    measured_tokens: int
    lifted_tokens: int
    projection: float | None
    drift: float | None
    mean_lift: float | None
    complete: bool
    finished: bool = Field(description="false where the client hung up first")
    layers: dict[int, Layer]


class Trajectory(BaseModel):
    session: str
    turns: list[KeptTurn]
    truncated: bool = Field(description=f"whether there are more than these last {TURNS_MOST} turns")


class Erased(BaseModel):
    session: str
    turns: int = Field(description="turns that were deleted; those still in a queue are not counted")


REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "a cursor that no page gave, or characters that nothing kept can have"},
    409: {"description": "this server keeps no history"},
    503: {"description": "the history cannot be reached"},
}
UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "no such session is kept"}}
Seconds = Annotated[float | None, Query(allow_inf_nan=False, description="Unix seconds")]


@router.get("/sessions", response_model=Sessions, responses=REFUSED)
async def sessions(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before")] = None,
    order: Order = "last",
    profile: str | None = None,
    model: str | None = None,
    arm: str | None = None,
    since: Seconds = None,
    until: Seconds = None,
    min_drift: Annotated[float | None, Query(allow_inf_nan=False, description="of its highest turn")] = None,
) -> Response:
    """Sessions with a turn from `since` on and before `until`: the latest first, or those that drifted furthest."""
    wanted = Filter(profile=profile, model=model, arm=arm, since=since, until=until, min_drift=min_drift)
    query = SessionQuery(wanted, order, limit, cursor)

    def look_up(store: Store) -> dict[str, Any]:
        page = store.sessions(query)
        return {"sessions": list(map(session_row, page.rows)), "next": page.next}

    return await _ask(request, look_up)


@router.get("/sessions/{session:path}", response_model=Trajectory, responses=REFUSED | UNKNOWN)
async def trajectory(request: Request, session: str) -> Response:
    """All turns of a session, oldest first, and the branch of its conversation that each is on."""
    session = normalised(session)

    def look_up(store: Store) -> dict[str, Any]:
        rows = store.trajectory(session, TURNS_MOST + 1) if session else []
        if not rows:
            raise HTTPException(404, f"no turn of session {session[:200]!r} is kept: it is unknown, erased, or too old")
        told = rows[-TURNS_MOST:]
        turns = [turn_row(row) | {"branch": branch} for row, branch in zip(told, branches(told), strict=True)]
        return {"session": session, "turns": turns, "truncated": len(rows) > TURNS_MOST}

    return await _ask(request, look_up)


@router.delete("/sessions/{session:path}", response_model=Erased, responses=REFUSED | UNKNOWN)
async def erase(request: Request, session: str) -> Response:
    """Delete all turns of a session that have ended; those of answers that are still being given come after it."""
    session = normalised(session)
    if not session:
        raise HTTPException(404, "name the session to erase: DELETE /v1/mooring/sessions/{session}")
    return await _ask(request, lambda store: {"session": session, "turns": store.erase(session)})


@router.get(
    "/turns/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, 503: {"description": "too many listen already"}},
)
async def stream(request: Request) -> StreamingResponse:
    """Server-sent events: `turn` for each that ends, from this API process."""
    live = _kept(request).live
    if live.full:
        raise HTTPException(503, "too many listen already: try again later")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(live.events(), media_type="text/event-stream", headers=headers)


def _kept(request: Request) -> Kept:
    kept: Kept = request.app.state.mooring_history
    return kept


async def _ask(request: Request, question: Callable[[Store], dict[str, Any]]) -> Response:
    """In a thread, up to the bytes of the answer; what goes wrong there becomes a status with its reason."""
    kept = _kept(request)
    store = kept.store
    if store is None:
        raise HTTPException(409, "this server keeps no history: start it with --history PATH or postgresql://...")
    try:
        body = await anyio.to_thread.run_sync(lambda: msgspec.json.encode(question(store)), limiter=kept.readers)
    except HTTPException:
        raise
    except BadCursor as error:
        raise HTTPException(400, str(error)) from None
    except store.bad_rows:
        raise HTTPException(400, "a value holds characters that no session, model or profile can have") from None
    except Exception as error:  # each database has its own ways to be away
        say(f"history: a request could not be answered: {error}")
        raise HTTPException(503, "the history cannot be reached: the server's log says why") from None
    return Response(body, media_type="application/json")
