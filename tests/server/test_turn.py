"""The middleware around a small application that calls a fake engine: what waits, what is spliced, what is left alone.

The readings are real: rows go through a real socket into a real inbox.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mooring_axes.artifact import Axis
from mooring_axes.profiles import Profile, off_profile, resolve
from mooring_hooks import inbox
from mooring_hooks.frames import READING_KEY, Answers, Sender
from mooring_hooks.inbox import Inbox
from mooring_hooks.measure import Measure
from mooring_hooks.table import SlotTable
from mooring_server import report
from mooring_server.middleware import MooringMiddleware
from mooring_server.record import Record
from mooring_server.sessions import Sessions
from mooring_server.thinking import Thinking
from mooring_server.turn import CURRENT, Meter, Turn, measured

SLOTS = {"off": 0, "strong": 1}
END = 9
"""The token that ends thinking."""


def table() -> SlotTable:
    directions = np.eye(3, 8, dtype=np.float32)
    axis = Axis(directions, np.ones(3, np.float32), model="m", monitored_layer=0,
                default_mean=np.array([10, 10, 10], np.float32), role_mean=np.zeros(3, np.float32))  # fmt: skip
    strong = Profile.model_validate({"name": "strong", "layers": [1], "floor": 4.0})
    return SlotTable.build([off_profile(axis), resolve(strong, axis)])


@dataclass
class Engine:
    """Yields `tokens` tokens per choice; the row of token i has projection i at the monitored and 3 at the capped
    layer. `sends` says for which choices rows go out."""

    tokens: int = 5
    ids: Sequence[int] = ()
    """Of the tokens, where they matter."""
    projections: dict[int, float] = field(default_factory=dict)
    """Of tokens whose own is another."""
    sends: Any = lambda choice: True
    sender: Sender = field(default_factory=lambda: Sender(0, 2))
    seen: list[Any] = field(default_factory=list)
    yielded: int = 0

    async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> AsyncIterator[Any]:
        self.seen.append(params)
        ticket = (params.extra_args or {}).get(READING_KEY)
        done = params.output_kind.name == "FINAL_ONLY"
        for i in range(self.tokens):
            await asyncio.sleep(0)
            if i:
                self._send(ticket, params.n, i - 1)
            ids = [self._id(k) for k in (range(i + 1) if done else [i])] if not done or i + 1 == self.tokens else []
            self.yielded = i
            if not done or i + 1 == self.tokens:
                yield SimpleNamespace(
                    prompt_token_ids=[1, 2], outputs=[SimpleNamespace(index=c, token_ids=ids) for c in range(params.n)]
                )

    def _id(self, token: int) -> int:
        return self.ids[token] if self.ids else 7

    def _send(self, ticket: Any, answers: int, token: int) -> None:
        if ticket is None:
            return
        _, address, key, number, _ = ticket
        values = np.array([[self.projections.get(token, token)], [3.0]], np.float32)
        for choice in filter(self.sends, range(answers)):
            whose = Answers(np.array([number + choice]), np.array([1]), np.array([0]))
            self.sender.send(address, key, whose, (np.array([token]), np.array([1], np.int32), *values))


def parameters(n: int = 1, stream: bool = False) -> Any:
    kind = "DELTA" if stream else "FINAL_ONLY"
    return SimpleNamespace(n=n, output_kind=SimpleNamespace(name=kind), extra_args=None)


class Application:
    """Endpoints as vLLM has them, in small."""

    def __init__(self, engine: Engine, thinking: Thinking | None = None) -> None:
        self.inbox = Inbox(2, 8)
        self.meter: Meter | None = Meter(self.inbox, Measure(table()), SLOTS, thinking, Sessions("m"))
        self.records: list[Record] = []
        self.meter.sinks.add("records", self.records.append)
        self.generate = measured(engine.generate)
        paths = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/other")
        app = Starlette(routes=[Route(path, self.answer, methods=["POST"]) for path in paths])
        app.add_middleware(MooringMiddleware, meter=lambda: self.meter)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")

    async def answer(self, request: Any) -> Response:
        asked = await request.json()
        if asked.get("fail"):
            return JSONResponse({"error": {"message": "no"}}, status_code=asked["fail"])
        turn = CURRENT.get()
        assert turn is not None
        turn.profile, turn.number, turn.wants_tokens = "strong", 2, bool(asked.get("tokens"))
        turn.beam_search = bool(asked.get("beams"))
        turn.request = SimpleNamespace(background=bool(asked.get("background")))
        stream, n, prompts = bool(asked.get("stream")), asked.get("n", 1), asked.get("prompts", 1)
        outputs = [self.generate(None, parameters(n, stream), "id", session_id="s") for _ in range(prompts)]
        if parts := asked.get("parts"):
            return StreamingResponse(self.frames_of_parts(outputs, parts), media_type="text/event-stream")
        if stream:
            return StreamingResponse(self.frames(outputs, n), media_type="text/event-stream")
        for each in outputs:
            _ = [o async for o in each]
        return Response(b'{"id":"a","choices":[]}', media_type="application/json")

    def has_read(self, rows: int) -> bool:
        """Whether that many rows of the first answer are there."""
        self.inbox.drain()
        return len(self.inbox.collect(1, None)) >= rows

    async def frames(self, outputs: Sequence[Any], n: int) -> AsyncIterator[str]:
        for each in outputs:
            async for _ in each:
                for choice in range(n):
                    yield f'data: {{"choices":[{{"index":{choice},"finish_reason":null}}]}}\n\n'
            for choice in range(n):
                yield f'data: {{"choices":[{{"index":{choice},"finish_reason":"stop"}}]}}\n\n'
        yield "data: [DONE]\n\n"

    async def frames_of_parts(self, outputs: list[Any], parts: int) -> AsyncIterator[str]:
        for _ in range(parts - 1):
            async for _ in outputs.pop():
                yield 'data: {"choices":[{"index":0,"finish_reason":null}]}\n\n'
            outputs.append(self.generate(None, parameters(1, True), "id", session_id="s"))
        async for frame in self.frames(outputs, 1):
            yield frame

    async def post(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body)


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = Engine()
    yield found
    found.sender.close()


@pytest.fixture
def application(engine: Engine) -> Iterator[Application]:
    found = Application(engine)
    yield found
    found.inbox.stop()


def frames_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]


def lost() -> float:
    return REGISTRY.get_sample_value("mooring_readings_lost_total") or 0.0


def test_a_reply_tells_where_it_lay(application: Application) -> None:
    answer = asyncio.run(application.post())
    told = answer.json()
    assert told["id"] == "a" and int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["X-Mooring-Profile"] == "strong"
    assert told["mooring"] == {
        "profile": "strong", "session": "s", "turn": 2, "projection": 1.5, "drift": 0.85, "monitored_layer": 0,
        "lifted_share": 1.0, "mean_lift": 1.0, "measured_tokens": 4, "complete": True,
        "layers": {"0": {"projection": 1.5, "lift": 0.0, "lifted_share": 0.0},
                   "1": {"projection": 3.0, "lift": 1.0, "lifted_share": 1.0}},
    }  # fmt: skip
    assert application.inbox.waiting == 0


def test_a_stream_tells_it_in_its_last_frame_and_adds_none(application: Application) -> None:
    frames = frames_of(asyncio.run(application.post(stream=True)))
    assert [("mooring" in frame) for frame in frames] == [False] * 5 + [True]
    assert frames[-1]["mooring"]["measured_tokens"] == 4 and frames[-1]["mooring"]["complete"]


def test_several_choices_are_a_list_by_index(application: Application) -> None:
    whole = asyncio.run(application.post(n=3)).json()["mooring"]
    assert [(m["index"], m["measured_tokens"]) for m in whole] == [(0, 4), (1, 4), (2, 4)]
    frames = frames_of(asyncio.run(application.post(n=3, stream=True)))
    assert [i for i, frame in enumerate(frames) if "mooring" in frame] == [len(frames) - 1]
    assert len(frames[-1]["mooring"]) == 3


def test_several_prompts_have_choices_of_their_own_only_where_an_endpoint_takes_them(application: Application) -> None:
    several = asyncio.run(application.post("/v1/completions", prompts=2, n=2)).json()["mooring"]
    assert [m["index"] for m in several] == [0, 1, 2, 3]
    one = asyncio.run(application.post("/v1/responses", prompts=2)).json()["mooring"]
    assert one["measured_tokens"] == 8, "an answer that took two calls of the model is one turn"


def test_tokens_are_told_once_each_whole_or_streamed(application: Application) -> None:
    whole = asyncio.run(application.post(tokens=True)).json()["mooring"]["tokens"]
    assert whole == {
        "index": [0, 1, 2, 3], "projection": {"0": [0.0, 1.0, 2.0, 3.0], "1": [3.0] * 4},
        "lift": {"0": [0.0] * 4, "1": [1.0] * 4}, "truncated": False,
    }  # fmt: skip
    frames = frames_of(asyncio.run(application.post(tokens=True, stream=True)))
    told = [index for frame in frames if "mooring" in frame for index in frame["mooring"]["tokens"]["index"]]
    assert told == [0, 1, 2, 3] and frames[-1]["mooring"]["projection"] == 1.5


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_a_very_long_answer_are_bounded_and_its_means_are_not(
    engine: Engine, application: Application, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(report, "TOKENS_MOST", 100)
    engine.tokens = 1001
    answer = asyncio.run(application.post(tokens=True, stream=stream))
    frames = frames_of(answer) if stream else [answer.json()]
    told = [index for frame in frames if "mooring" in frame for index in frame["mooring"]["tokens"]["index"]]
    assert told == list(range(100))
    last = frames[-1]["mooring"]
    assert last["tokens"]["truncated"] and last["measured_tokens"] == 1000 and last["projection"] == 499.5


def test_one_token_has_no_reading_and_is_complete(engine: Engine, application: Application) -> None:
    engine.tokens = 1
    told = asyncio.run(application.post()).json()["mooring"]
    assert told["projection"] is None and told["drift"] is None and told["complete"] and told["layers"] == {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_that_is_silent_costs_a_bounded_wait_and_is_counted(
    engine: Engine, application: Application, stream: bool
) -> None:
    engine.sends = lambda choice: choice == 0
    before, started = lost(), time.monotonic()
    answer = asyncio.run(application.post(n=2, stream=stream))
    assert time.monotonic() - started < 0.5
    told = (frames_of(answer)[-1] if stream else answer.json())["mooring"]
    assert [m["complete"] for m in told] == [True, False]
    assert told[1]["projection"] is None and told[0]["projection"] == 1.5
    assert lost() - before == 1


def test_errors_other_paths_and_other_methods_pass_untouched(engine: Engine, application: Application) -> None:
    for status in (400, 500):
        assert asyncio.run(application.post(fail=status)).content == b'{"error":{"message":"no"}}'
    assert asyncio.run(application.post("/other")).content == b'{"id":"a","choices":[]}'
    assert engine.seen[-1].extra_args is None, "nobody would read the readings of that path"


def test_beam_search_is_not_measured_and_says_so(engine: Engine, application: Application) -> None:
    told = asyncio.run(application.post(beams=True)).json()["mooring"]
    assert told["profile"] == "strong" and told["projection"] is None and not told["complete"]
    assert engine.seen[-1].extra_args is None


def test_without_readings_nothing_is_added(engine: Engine, application: Application) -> None:
    application.meter = None
    answer = asyncio.run(application.post())
    assert answer.content == b'{"id":"a","choices":[]}' and answer.headers["X-Mooring-Profile"] == "strong"
    assert engine.seen[-1].extra_args is None


def test_a_client_that_hangs_up_leaves_nothing_behind(engine: Engine, application: Application) -> None:
    engine.tokens = 100_000

    async def hang_up() -> int:
        task = asyncio.create_task(application.post(stream=True))
        while not application.inbox.waiting:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return application.inbox.waiting

    assert asyncio.run(hang_up()) == 0


def test_thinking_is_left_out(engine: Engine) -> None:
    """The prompt ends as thinking begins, and the second token ends it."""
    engine.ids = [7, END, 7, 7, 7]
    application = Application(engine, thinking=Thinking(start=2, end=END))
    for stream in (False, True):
        answer = asyncio.run(application.post(stream=stream))
        told = (frames_of(answer)[-1] if stream else answer.json())["mooring"]
        assert told["measured_tokens"] == 2 and told["projection"] == 2.5 and told["complete"]
    application.inbox.stop()


def test_tokens_of_a_stream_begin_where_thinking_ends(engine: Engine) -> None:
    engine.ids, engine.tokens = [7, 7, END, *[7] * 5], 8
    application = Application(engine, thinking=Thinking(start=2, end=END))
    answer = asyncio.run(application.post(tokens=True, stream=True))
    told = [index for frame in frames_of(answer) if "mooring" in frame for index in frame["mooring"]["tokens"]["index"]]
    assert told == [3, 4, 5, 6]
    application.inbox.stop()


def test_a_long_stream_of_tokens_looks_at_each_row_no_more_than_a_few_times(
    engine: Engine, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every frame looked at all that came before, 6,000 tokens would be 18 million rows."""
    engine.tokens, looked = 6000, []
    in_order = inbox._in_order
    monkeypatch.setattr(inbox, "_in_order", lambda raw, *rest: (looked.append(len(raw) // 16), in_order(raw, *rest))[1])
    answer = asyncio.run(application.post(tokens=True, stream=True))
    assert sum(looked) < 4 * engine.tokens
    frames = frames_of(answer)
    told = [index for frame in frames if "mooring" in frame for index in frame["mooring"]["tokens"]["index"]]
    assert told == list(range(report.TOKENS_MOST))
    assert frames[-1]["mooring"]["measured_tokens"] == 5999 and frames[-1]["mooring"]["tokens"]["truncated"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", ["settle", "records"])
def test_a_fault_of_ours_costs_the_reading_and_not_the_answer(
    engine: Engine, application: Application, monkeypatch: pytest.MonkeyPatch, stream: bool, broken: str
) -> None:
    whole = asyncio.run(application.post(stream=stream))
    monkeypatch.setattr(Turn, broken, lambda *_, **__: 1 / 0)
    before = lost()
    answer = asyncio.run(application.post(stream=stream))
    assert answer.status_code == 200 and "mooring" not in answer.text
    bare = [{k: v for k, v in f.items() if k != "mooring"} for f in (frames_of(whole) if stream else [whole.json()])]
    assert bare == (frames_of(answer) if stream else [answer.json()])
    assert lost() > before


def test_a_projection_that_is_no_number_is_no_reading(engine: Engine, application: Application) -> None:
    engine.projections = {1: float("nan"), 2: float("inf")}
    told = asyncio.run(application.post()).json()["mooring"]
    assert told["measured_tokens"] == 2 and told["projection"] == 1.5 and not told["complete"]
    (record,) = application.records
    assert record.drift is not None and math.isfinite(record.drift)


def test_a_background_response_is_not_measured(engine: Engine, application: Application) -> None:
    answer = asyncio.run(application.post("/v1/responses", background=True))
    assert "mooring" not in answer.json() and engine.seen[-1].extra_args is None and application.records == []


def test_an_answer_of_several_parts_tells_each_token_once(engine: Engine, application: Application) -> None:
    """As a response that calls tools in between: `generate` is called again for the same answer."""
    answer = asyncio.run(application.post(tokens=True, stream=True, parts=3))
    told = [index for frame in frames_of(answer) if "mooring" in frame for index in frame["mooring"]["tokens"]["index"]]
    assert told == [0, 1, 2, 3] * 3
    assert frames_of(answer)[-1]["mooring"]["measured_tokens"] == 12


def test_many_at_once_do_not_mix(engine: Engine, application: Application) -> None:
    async def ask() -> list[httpx.Response]:
        return await asyncio.gather(*(application.post(stream=i % 2 == 0, n=1 + i % 3) for i in range(60)))

    for i, answer in enumerate(asyncio.run(ask())):
        told = (frames_of(answer)[-1] if i % 2 == 0 else answer.json())["mooring"]
        for each in told if isinstance(told, list) else [told]:
            assert each["measured_tokens"] == 4 and each["complete"] and each["projection"] == 1.5


def test_everyone_is_told_of_an_answer_once_it_is_given(application: Application) -> None:
    before = time.time()
    asyncio.run(application.post())
    (record,) = application.records
    assert before <= record.at <= time.time()
    assert replace(record, at=0.0) == Record(
        at=0.0, response="a", choice=0, route="chat", model="m", profile="strong", arm="none", session="s",
        identity="client", turn=2, node="", parent="", tokens=5, measured_tokens=4, lifted_tokens=4, projection=1.5,
        drift=0.85, mean_lift=1.0, complete=True, finished=True, layers={0: (1.5, 0.0, 0.0), 1: (3.0, 1.0, 1.0)},
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_whole_or_streamed_there_is_one_record_for_each_choice(application: Application, path: str) -> None:
    n = 1 if path.endswith("responses") else 3
    asyncio.run(application.post(path, n=n))
    asyncio.run(application.post("/v1/chat/completions", n=3, stream=True))
    assert [(r.choice, r.tokens, r.finished) for r in application.records[:n]] == [(i, 5, True) for i in range(n)]
    assert [(r.choice, r.tokens, r.finished) for r in application.records[n:]] == [(i, 5, True) for i in range(3)]


def test_a_client_that_hangs_up_in_mid_stream_is_told_of_as_far_as_it_came(
    engine: Engine, application: Application
) -> None:
    engine.tokens = 100_000

    async def hang_up() -> None:
        task = asyncio.create_task(application.post(stream=True, n=2))
        while engine.yielded < 25 or not application.has_read(10):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(hang_up())
    assert [(r.choice, r.finished) for r in application.records] == [(0, False), (1, False)]
    assert all(20 <= r.tokens < 100_000 and 0 <= r.measured_tokens < r.tokens for r in application.records)
    assert application.records[0].measured_tokens >= 10 and application.records[0].drift is not None


def test_a_client_that_hangs_up_before_a_whole_answer_is_told_of_as_far_as_it_was_read(
    engine: Engine, application: Application
) -> None:
    engine.tokens = 100_000

    async def hang_up() -> None:
        task = asyncio.create_task(application.post())
        while engine.yielded < 25 or not application.has_read(10):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(hang_up())
    (record,) = application.records
    assert not record.finished and not record.complete and record.response == ""
    assert 10 <= record.measured_tokens <= record.tokens < 100_000 and record.projection is not None


def test_a_sink_that_raises_harms_neither_the_answer_nor_the_others(
    application: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(record: Record) -> None:
        raise OSError("no space left")

    assert application.meter is not None
    application.meter.sinks.add("broken", broken)
    application.meter.sinks.add("later", application.records.append)
    before = REGISTRY.get_sample_value("mooring_sink_errors_total", {"sink": "broken"}) or 0.0
    for _ in range(2):
        assert asyncio.run(application.post(n=2)).json()["mooring"][1]["complete"]
    assert REGISTRY.get_sample_value("mooring_sink_errors_total", {"sink": "broken"}) == before + 4
    assert len(application.records) == 8
    assert capsys.readouterr().err.count("OSError: no space left") == 1, "said once, then only counted"


def test_nobody_is_told_of_what_was_not_answered(application: Application) -> None:
    for status in (400, 500):
        asyncio.run(application.post(fail=status))
    asyncio.run(application.post("/other"))
    assert not application.records
    application.meter = None
    asyncio.run(application.post())
    assert not application.records, "readings are switched off"


def test_beam_search_leaves_one_record_without_numbers(application: Application) -> None:
    asyncio.run(application.post(beams=True))
    (record,) = application.records
    assert record.projection is None and record.tokens == 0 and not record.complete and record.finished
