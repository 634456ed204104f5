"""benchmarks/readings.py on fakes: when the last frame came, what is compared, and runs that end early."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import last_frames
import readings
import readings_result
from last_frames import LENGTHS, Heard, Pass
from load import CannotMeasure, Target
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE

READING = {"complete": True}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(reading: dict[str, Any] | None, short_by: int = 0) -> Handler:
    """A handler of /v1/completions that speaks as vLLM does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        tokens = body["max_tokens"] - short_by
        last = {"choices": [{"text": "w", "finish_reason": "length"}]} | ({"mooring": reading} if reading else {})
        usage = {"usage": {"completion_tokens": tokens}}
        headers = {"X-Mooring-Profile": "strong"}
        if not body.get("stream"):
            return web.Response(body=packed(last | usage), content_type="application/json", headers=headers)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        text = {"choices": [{"text": "w", "finish_reason": None}]}
        for frame in (text, text, text, last, {"choices": [], **usage}):
            await response.write(b"data: " + packed(frame) + b"\n\n")
        return response

    return answer


def packed(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def ask(handler: Handler, streamed: bool, measured: bool = True) -> Heard:
    """One pass against a server that answers so."""

    async def main() -> Heard:
        app = web.Application()
        app.router.add_post("/v1/completions", handler)
        async with TestServer(app) as server:
            target = Target(str(server.make_url("/v1/completions")), "m", 1000, [None], ["strong"])
            given = Pass(target, 1, (0,), streamed, measured)
            return await last_frames.send(given, last_frames.waves(given))

    return asyncio.run(main())


class Told:
    """A stream whose chunks come at given milliseconds."""

    def __init__(self, chunks: list[tuple[int, bytes]]) -> None:
        self._chunks, self.now = chunks, 0.0

    async def readany(self) -> bytes:
        at, chunk = self._chunks.pop(0) if self._chunks else (0, b"")
        self.now = at / 1000
        return chunk

    def perf_counter(self) -> float:
        return self.now


TEXT = b'data: {"choices":[{"text":"w","finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"text":"w","finish_reason":"length"}],"mooring":{}}\n\n'
USAGE = b'data: {"choices":[],"usage":{}}\n\n'


@pytest.mark.parametrize(
    ("chunks", "gaps", "last"),
    [
        ([(10, TEXT), (13, TEXT), (17, TEXT), (47, LAST), (90, USAGE)], [3, 4], 30),
        ([(10, TEXT), (16, TEXT + TEXT), (26, TEXT + LAST + USAGE)], [3, 3, 5], 5),
        ([(10, LAST + USAGE)], [], None),
    ],
)
def test_the_last_gap_is_that_of_the_frame_in_which_the_answer_ends(
    chunks: list[tuple[int, bytes]], gaps: list[int], last: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, told = Heard(), Told(list(chunks))
    monkeypatch.setattr(last_frames, "time", told)
    assert asyncio.run(last_frames.listen(told, heard)).endswith(USAGE)  # type: ignore[arg-type]
    assert heard.gaps == pytest.approx([gap / 1000 for gap in gaps])
    assert heard.last_gaps == ([] if last is None else pytest.approx([last / 1000]))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_wave_waits_for_all_of_its_answers(streamed: bool) -> None:
    assert len(ask(answering(READING), streamed).latencies) == len(LENGTHS)


def test_a_body_has_no_last_gap() -> None:
    heard = ask(answering(READING), streamed=False)
    assert heard.last_gaps == heard.gaps == []


@pytest.mark.parametrize("streamed", [False, True])
def test_answers_that_lost_readings_are_counted(streamed: bool) -> None:
    assert ask(answering({"complete": False}), streamed).lost == len(LENGTHS)


@pytest.mark.parametrize(
    ("handler", "measured", "said"),
    [
        (answering(None), True, "readings are on"),
        (answering(READING), False, "readings are off"),
        (answering(READING, short_by=1), True, "tokens were asked for"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_is_not_what_it_should_be_ends_the_run(
    handler: Handler, measured: bool, said: str, streamed: bool
) -> None:
    with pytest.raises(CannotMeasure, match=said):
        ask(handler, streamed, measured)


def test_all_servers_are_asked_the_same_and_a_wave_has_each_length_once() -> None:
    def made(name: str) -> list[dict[str, Any]]:
        given = Pass(Target("u", "m", 1000, [None], [name]), 3, (3, 0), streamed=True, measured=True)
        return [json.loads(job.ask.body) for wave in last_frames.waves(given) for job in wave]

    assert made("a") == made("b")
    assert len({tuple(body["prompt"]) for body in made("a")}) == 3 * len(LENGTHS)
    assert [body["max_tokens"] for body in made("a")] == 3 * list(LENGTHS)


# --- what is compared ----------------------------------------------------------------------------


def blocks(
    on: list[tuple[float, float]], off: list[tuple[float, float]], kept: list[tuple[float, float]] | None = None
) -> list[dict[str, Any]]:
    """Of (tokens per second, p99 of the last gap in ms) by round."""
    arms = ((readings_result.ON, on), (readings_result.KEPT, kept or []), (readings_result.OFF, off))
    return [
        {
            "load": "streamed", "round": number, "arm": arm, "tokens_per_s": rate, "cpu_s_per_token": 0.001,
            "turn_seconds": [100 / rate, 200 / rate],
            "answers": 48, "lost": 0, "last_gap_ms": {"p50": 1.0, "p99": p99}, "gap_ms": None, "request_ms": None,
        }
        for arm, found in arms
        for number, (rate, p99) in enumerate(found)
    ]  # fmt: skip


def test_what_is_added_is_a_difference_within_a_round() -> None:
    found = readings_result.results(
        blocks([(99, 4), (198, 14), (297, 24)], [(100, 1), (200, 11), (300, 21)], kept=[(90, 9)] * 3), ["streamed"]
    )
    part, kept = (found["streamed"]["against_off"][arm] for arm in ("on", "kept"))
    assert part["ratio"]["tokens_per_s"]["median"] == pytest.approx(0.99)
    assert part["added"]["p99"]["pairs"] == [3, 3, 3] and part["added"]["p99"]["median"] == 3
    assert part["added"]["p99"]["null"]["pairs"] == [10]
    assert kept["ratio"]["tokens_per_s"]["pairs"] == [0.9, 0.9, 0.45, 0.45, 0.3, 0.3]
    assert found["streamed"]["null"]["tokens_per_s"]["pairs"] == [0.5, 0.5, 0.5]
    assert kept["added"]["p99"]["pairs"] == [8, -2, -12]


def test_a_turn_that_was_disturbed_is_one_pair_of_many() -> None:
    made = blocks([(99, 4.0)] * 20, [(100, 1.0)] * 20)
    for block in made[:9]:
        block["turn_seconds"][0] *= 3
    part = readings_result.results(made, ["streamed"])["streamed"]
    assert part["against_off"]["on"]["ratio"]["tokens_per_s"]["median"] == pytest.approx(0.99)


def test_starts_that_differ_widen_the_interval_of_what_is_added() -> None:
    """Medians of 3, 3, 3 and 8: Student's t with three degrees of freedom."""
    made = blocks([(99, 4.0)] * 24 + [(99, 9.0)] * 8, [(100, 1.0)] * 32)
    of_four = [{**block, "start": block["round"] // 8} for block in made]
    found = [readings_result.results(given, ["streamed"])["streamed"] for given in (made, of_four)]
    one, four = (part["against_off"]["on"]["added"]["p99"] for part in found)
    assert (one["median"], one["low"], one["high"]) == (3, 3, 3)
    assert four["median"] == 3
    assert (four["low"], four["high"]) == pytest.approx((4.25 - 3.18 * 1.25, 4.25 + 3.18 * 1.25), abs=0.05)


@pytest.mark.parametrize(("rate", "p99", "met"), [(99, 6.0, [True, True]), (98, 6.1, [False, False])])
def test_targets_are_held_against_the_measured_medians(rate: float, p99: float, met: list[bool]) -> None:
    """Of readings alone, whatever keeping them costs."""
    made = blocks([(rate, p99)] * 20, [(100, 1.0)] * 20, kept=[(98.5, 5.0)] * 20)
    found = readings_result.results(made, ["streamed"])
    told = readings_result.targets(found, pairs=20, seconds=30)
    assert [target["met"] for target in told] == met
    assert all(target["full_size"] for target in told)
    assert not any(target["full_size"] for target in readings_result.targets(found, pairs=20, seconds=29))


def test_nothing_is_met_where_nothing_was_measured() -> None:
    told = readings_result.targets(readings_result.results([], ["streamed", "whole"]), 20, 30)
    assert [target["met"] for target in told] == [None] * 3


# --- whole runs ----------------------------------------------------------------------------------


class FakeServer:
    """Costs 1 CPU second per look."""

    def __init__(self, name: str) -> None:
        self.name, self.url, self.stopped, self._cpu = name, "u", False, 0.0

    def start(self) -> None:
        pass

    def check(self) -> None:
        pass

    def cpu_by_process(self) -> dict[str, float]:
        self._cpu += 1.0
        return {"api": self._cpu}

    def suspend(self) -> None: ...
    def resume(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeServer]:
    """A run without a server: readings cost a hundredth, and 2 ms at the end of a stream."""
    made = {name: FakeServer(name) for name in ("unkept", "mooring", "unmeasured")}

    def run(given: Pass) -> Heard:
        gaps = [0.003 + 0.002 * given.measured] * given.streamed
        return Heard([0.1], [0.003] * given.streamed, gaps, 0, given.waves * (0.1 + 0.001 * given.measured), 0.01)

    monkeypatch.setattr(readings, "servers", lambda *_: made)
    monkeypatch.setattr(last_frames, "run", run)
    return made


def test_a_whole_run_ends_in_its_json(
    fakes: dict[str, FakeServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "result.json"
    assert readings.main(["--pairs", "4", "--block-seconds", "2", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    found = json.loads(told.splitlines()[-1])
    assert found == json.loads(out.read_text()) and found["partial"] is False
    first = ["unkept", "default", "unmeasured"]
    assert [(b["load"], b["arm"]) for b in found["blocks"][:6]] == [
        *(("streamed", arm) for arm in first), *(("whole", arm) for arm in first),
    ]  # fmt: skip
    whole = [b["arm"] for b in found["blocks"] if b["load"] == "whole"]
    assert whole[:6] == first + first[::-1] and {*whole[6:9]} == {*whole[9:]} == {*first}
    assert found["results"]["streamed"]["against_off"]["kept"]["added"]["p99"]["median"] == pytest.approx(2.0)
    assert [target["met"] for target in found["targets"]] == [True, True, True]
    assert "last gap, p99, on - off: 2.0000" in told
    assert [b["start"] for b in found["blocks"]] == [start for start in range(4) for _ in range(6)]
    assert all(server.stopped for server in fakes.values())


def test_an_interrupted_run_keeps_its_blocks_and_says_so(
    fakes: dict[str, FakeServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered, calls = last_frames.run, []

    def run(given: Pass) -> Heard:
        calls.append(given)
        if len(calls) > 80:
            raise KeyboardInterrupt
        return answered(given)

    monkeypatch.setattr(last_frames, "run", run)
    assert readings.main(["--load", "whole"]) == INTERRUPTED_CODE
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["partial"] is True and found["stopped"] == INTERRUPTED and found["blocks"]
    assert all(server.stopped for server in fakes.values())


def test_a_run_may_leave_out_what_keeps_readings(fakes: dict[str, FakeServer], tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    assert readings.main(["--load", "streamed", "--pairs", "4", "--arms", "on,off", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {b["arm"] for b in found["blocks"]} == {"unkept", "unmeasured"}
    assert found["results"]["streamed"]["against_off"]["kept"]["ratio"]["tokens_per_s"]["median"] is None
    assert all(target["met"] for target in found["targets"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pairs", "0"], ["--block-seconds", "0"], ["--load", "none"], ["--arms", "off"], ["--arms", "on,kept"],
        ["--arms", "on,off,off"],
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        readings.parse(arguments)
    assert stopped.value.code == 2
