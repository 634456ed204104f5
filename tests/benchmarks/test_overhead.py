"""benchmarks/overhead.py on fakes: the order of blocks, their statistics, the load, and runs that end early."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import arms
import load
import overhead
import overhead_result
import stand_in
from load import CannotMeasure, Heard, Pass, Target, Workload
from mooring_axes.profiles import load_profiles
from mooring_bench import blocks, record
from mooring_bench.blocks import Turns, in_turn, orders, turns
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE
from turns import take_turns

DECODE = Workload("decode", 4, 5)
PREFILL = Workload("prefill", 8, 1)


# --- the order of blocks -------------------------------------------------------------------------


def test_two_arms_take_turns_as_abba() -> None:
    assert blocks.orders("ab", 4) == [["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_arm_stands_everywhere_and_follows_every_other_equally_often(count: int) -> None:
    names = "abcde"[:count]
    design = blocks.orders(names, count if count % 2 == 0 else 2 * count)
    places = Counter((arm, place) for order in design for place, arm in enumerate(order))
    neighbours = Counter(pair for order in design for pair in pairwise(order))
    assert len(places) == count**2 and len(set(places.values())) == 1
    assert len(neighbours) == count * (count - 1) and len(set(neighbours.values())) == 1


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_linear_drift_favours_no_arm_over_two_rounds(count: int) -> None:
    first, second, *_ = blocks.orders("abcde"[:count], 2)
    later = first + second
    assert len({sum(i for i, arm in enumerate(later) if arm == name) for name in first}) == 1


# --- their statistics ----------------------------------------------------------------------------


def made(values: Mapping[str, list[float]], number: str = "tokens_per_s") -> list[dict[str, Any]]:
    """Blocks of a fake run: arm -> its number in every round."""
    other = dict.fromkeys(overhead_result.NUMBERS, 1.0)
    return [
        {"workload": "decode", "round": r, "arm": arm, "seconds": 30.0, "others_cpu_s": 0.0, **other, number: value}
        for arm, found in values.items()
        for r, value in enumerate(found)
    ]


def test_a_block_is_made_of_whole_waves_in_turns_of_about_three_seconds() -> None:
    assert turns(30.0, wave_seconds=0.05) == (10, 60)
    assert turns(30.0, wave_seconds=2.0) == (8, 2)
    assert turns(30.0, wave_seconds=9.0) == (4, 1)


def test_the_arms_of_a_round_take_turns_back_and_forth() -> None:
    assert [arm for _, arm in in_turn(["stock", "off", "default"], 3)] == [
        "stock", "off", "default", "default", "off", "stock", "stock", "off", "default",
    ]  # fmt: skip


def test_a_neighbour_who_comes_and_goes_slows_both_arms_of_a_round() -> None:
    """He takes half of the machine for 20 s of every 70: a block of one stretch would be 5 to 40 % slower or not."""
    now = {"at": 0.0}

    def send(arm: str, waves: int, turn: int) -> Heard:
        began = now["at"]
        for _ in range(waves):
            now["at"] += 2.0 if now["at"] % 70 < 20 else 1.0
        return Heard(seconds=now["at"] - began)

    servers: Any = {"mooring": FakeServer("mooring"), "stock": FakeServer("stock")}
    for order in orders(["stock", "default"], 20):
        found = take_turns(order, Turns(10, 3), servers, Heard, send)
        assert found["default"].heard.seconds / found["stock"].heard.seconds == pytest.approx(1, abs=0.12)


def taken_by(servers: dict[str, arms.Server]) -> dict[str, float]:
    return {name: sum(server.cpu_by_process().values()) for name, server in servers.items()}


def test_only_the_server_that_is_measured_runs() -> None:
    """For real: three processes that count as fast as they can."""
    names = ("stock", "mooring", "unmeasured")
    servers = {name: arms.Server(name, [], {}, Path()) for name in names}
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in names]
    try:
        for server, process in zip(servers.values(), spinning, strict=True):
            server._process, server._processes = process, [psutil.Process(process.pid)]
        took: dict[str, list[float]] = {name: [] for name in names}

        def send(arm: str, waves: int, turn: int) -> Heard:
            before = taken_by(servers)
            time.sleep(0.3)
            for name, seconds in taken_by(servers).items():
                if name != arms.ARMS[arm].server:
                    took[name].append(seconds - before[name])
            return Heard(seconds=0.3)

        take_turns(["stock", "default", "unmeasured"], Turns(2, 1), servers, Heard, send)
        assert {name: max(taken) for name, taken in took.items()} == dict.fromkeys(names, 0.0)
        assert {psutil.Process(process.pid).status() for process in spinning} <= {"running"}
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_a_ratio_is_taken_within_a_round() -> None:
    run = made({"stock": [100.0, 200.0, 400.0], "default": [99.0, 198.0, 396.0]})
    assert blocks.paired(run, "default", "stock", "tokens_per_s") == pytest.approx([0.99] * 3)


def test_a_round_that_misses_an_arm_is_no_pair() -> None:
    run = made({"stock": [100.0, 100.0], "default": [90.0]})
    assert blocks.paired(run, "default", "stock", "tokens_per_s") == [0.9]


def test_the_null_uses_no_block_twice() -> None:
    run = made({"stock": [1.0, 2.0, 4.0, 16.0, 99.0]})
    assert blocks.null(run, "stock", "tokens_per_s") == [2.0, 4.0]


def test_equal_ratios_have_an_interval_of_no_width() -> None:
    found = blocks.estimate([0.98] * 20)
    assert (found.median, found.low, found.high) == pytest.approx((0.98, 0.98, 0.98))
    assert found.spread == pytest.approx(0.0)


def test_an_estimate_of_little_says_little() -> None:
    assert blocks.estimate([]) == (None, None, None, None, [], [])
    assert blocks.estimate([0.9])[:3] == (pytest.approx(0.9), None, None)


def test_starts_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    ratios = [*rng.normal(0.97, 0.001, 10), *rng.normal(1.03, 0.001, 10)]
    found, blind = blocks.estimate(ratios, [0] * 10 + [1] * 10), blocks.estimate(ratios)
    assert found.by_start == pytest.approx([0.97, 1.03], abs=0.001)
    assert blind.by_start == pytest.approx([blind.median])
    assert found.low and found.high and found.low < 0.971 and found.high > 1.029


def test_the_null_compares_no_two_starts() -> None:
    run = [{**block, "start": block["round"] // 3} for block in made({"stock": [1.0, 1.0, 1.0, 2.0]})]
    assert blocks.null(run, "stock", "tokens_per_s") == [1.0]
    assert blocks.starts_of(run, "stock", "stock", "tokens_per_s") == [0, 0, 0, 1]


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    found = [blocks.estimate(np.exp(rng.normal(-0.02, 0.01, 20)).tolist()) for _ in range(100)]
    held = sum(one.low <= np.exp(-0.02) <= one.high for one in found if one.low and one.high)
    assert 88 <= held <= 100


@pytest.mark.parametrize(
    ("model", "ratios", "met"),
    [
        ("demo", [0.93] * 4, True),
        ("demo", [0.92] * 4, False),
        ("qwen3-0.6b-shape", [0.985] * 4, True),
        ("qwen3-0.6b-shape", [0.90, 0.99, 0.99, 0.90], False),
        ("qwen3-0.6b-shape", [0.99], None),
        ("demo", [], None),
    ],
)
def test_a_target_is_met_by_numbers_alone(model: str, ratios: list[float], met: bool | None) -> None:
    run = made({"stock": [100.0] * len(ratios), "default": [100.0 * ratio for ratio in ratios]})
    found = overhead_result.results(run, ["stock", "default"], ["decode"])
    (target,) = overhead_result.targets(model, found, 4, 30.0)
    assert target["met"] is met
    assert not target["full_size"]


@pytest.mark.parametrize(("ratio", "met"), [(0.985, True), (0.97, False)])
def test_128_slots_are_held_against_one(ratio: float, met: bool) -> None:
    run = made({"stock": [100.0] * 4, "default": [90.0] * 4, "hundred": [90.0 * ratio] * 4})
    found = overhead_result.results(run, ["stock", "default", "hundred"], ["decode"])
    _, target = overhead_result.targets("demo", found, 4, 30.0)
    assert target["what"] == "tokens per second, hundred / default" and target["met"] is met


def test_a_block_is_disturbed_where_others_took_much_of_the_machine() -> None:
    run = made({"stock": [1.0, 1.0]})
    run[1]["others_cpu_s"] = 4.0
    assert overhead_result.disturbed(run, cores=2) == 1


# --- the load ------------------------------------------------------------------------------------


class Fake:
    """An endpoint that answers `tokens` tokens under `profile`, and keeps what it was asked."""

    def __init__(self, tokens: int | None = None, profile: str | None = None, status: int = 200) -> None:
        self.tokens, self.profile, self.status = tokens, profile, status
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        tokens = self.tokens or body["max_tokens"]
        usage = {"usage": {"completion_tokens": tokens}}
        headers = {load.PROFILE_HEADER: self.profile} if self.profile else {}
        if not body.get("stream"):
            return web.json_response(usage | {"choices": [{"text": "w" * tokens}]}, status=self.status, headers=headers)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for event in [{"choices": [{"text": "w"}]}] * tokens + [usage]:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    def serve(self) -> Iterator[str]:
        import asyncio

        ready, stop, where = threading.Event(), asyncio.Event(), []
        loop = asyncio.new_event_loop()

        async def main() -> None:
            app = web.Application()
            app.router.add_post("/v1/completions", self.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            where.append(runner.addresses[0][1])
            ready.set()
            await stop.wait()
            await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
        thread.start()
        ready.wait()
        yield f"http://127.0.0.1:{where[0]}/v1/completions"
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture
def serving() -> Iterator[Callable[[Fake], str]]:
    open_ones: list[Iterator[str]] = []

    def serve(fake: Fake) -> str:
        open_ones.append(fake.serve())
        return next(open_ones[-1])

    yield serve
    for one in open_ones:
        next(one, None)


def aim(url: str, asked: str | None = None, answered: str | None = None) -> Target:
    return Target(url, "m", 1000, [asked], [answered])


def test_all_requests_are_answered_and_one_of_each_wave_streams(serving: Callable[[Fake], str]) -> None:
    fake = Fake()
    heard = load.run(Pass(aim(serving(fake)), DECODE, 12, 4, (0,)))
    assert len(heard.latencies) == len(fake.asked) == 12
    assert sum(bool(body.get("stream")) for body in fake.asked) == 3
    assert len(heard.first_tokens) == 3
    assert len(heard.gaps) <= 3 * (DECODE.answer_tokens - 1)
    assert heard.seconds > 0


def test_answers_of_one_token_are_not_streamed(serving: Callable[[Fake], str]) -> None:
    fake = Fake()
    heard = load.run(Pass(aim(serving(fake)), PREFILL, 6, 2, (0,)))
    assert not any(body.get("stream") for body in fake.asked)
    assert heard.gaps == []
    assert load.percentiles(heard.gaps) is None


def test_equal_seeds_ask_every_arm_the_same_and_no_prompt_comes_twice() -> None:
    stock = load.asks(aim("u"), DECODE, 20, (3, 0), streaming=False)
    other = load.asks(aim("u", "off", "off"), DECODE, 20, (3, 0), streaming=False)
    later = load.asks(aim("u"), DECODE, 20, (3, 1), streaming=False)
    prompts = [[json.loads(ask.body)["prompt"] for ask in asks] for asks in (stock, other, later)]
    assert prompts[0] == prompts[1]
    assert len({tuple(p) for p in prompts[0] + prompts[2]}) == 40
    assert "vllm_xargs" not in json.loads(stock[0].body)
    assert json.loads(other[0].body)["vllm_xargs"] == {"mooring_profile": "off"}


@pytest.mark.parametrize(("name", "slots"), arms.SLOTS.items())
def test_all_profiles_of_a_table_are_asked_for_in_turn(name: str, slots: int) -> None:
    arm = arms.ARMS[name]
    asks = load.asks(Target("u", "m", 1000, arm.asked, arm.asked), DECODE, 2 * slots, (0,), streaming=False)
    named = Counter(json.loads(ask.body).get("vllm_xargs", {}).get("mooring_profile") for ask in asks)
    assert len(named) == slots and set(named.values()) == {2}


@pytest.mark.parametrize(("name", "slots"), arms.SLOTS.items())
def test_a_server_of_many_profiles_gets_their_file_and_slots_for_them(name: str, slots: int) -> None:
    command = arms.command_of(name, SUBJECT, [])
    assert command[command.index("--profiles") + 1] == f"made/profiles-{slots}.yaml"
    assert command[command.index("--slots") + 1] == str(slots)


def test_a_request_that_names_none_runs_under_the_default_of_its_server(tmp_path: Path) -> None:
    server = arms.Server("any", [], {}, tmp_path / "log")
    answered = {arm: arms.target(arm, SUBJECT, server).answered for arm in ("stock", "off", "default", "hundred")}
    assert (answered["stock"], answered["off"], answered["default"]) == ([None], ["off"], ["strong"])
    assert answered["hundred"][:3] == ["off", "default", "axis-01"]
    assert arms.target("measuring", SUBJECT, server).answered == ["off"]


def test_the_server_that_measures_caps_nothing() -> None:
    command = arms.command_of("measuring", SUBJECT, [])
    file = load_profiles(command[command.index("--profiles") + 1])
    assert (file.default, file.profiles) == ("off", ())


@pytest.mark.parametrize("slots", arms.SLOTS.values())
def test_the_profile_files_fill_their_tables(slots: int) -> None:
    written = stand_in.profiles_of(stand_in.PLACES[stand_in.QWEN], None, slots)["profiles"]
    assert len({profile["name"] for profile in written}) == slots - 1  # and `off`
    assert all(profile["axis"] == f"{profile['name']}.safetensors" for profile in written[1:])


@pytest.mark.parametrize(
    ("fake", "said"),
    [
        (Fake(tokens=3), "5 tokens were asked for"),
        (Fake(profile="off"), "ran under profile 'off'"),
        (Fake(status=500), "answered 500"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_ends_the_run(
    fake: Fake, said: str, serving: Callable[[Fake], str]
) -> None:
    with pytest.raises(CannotMeasure, match=said):
        load.run(Pass(aim(serving(fake)), DECODE, 4, 2, (0,)))


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(CannotMeasure, match="the server broke off"):
        load.run(Pass(aim(f"http://127.0.0.1:{port}/"), DECODE, 4, 2, (0,)))


# --- servers -------------------------------------------------------------------------------------

SUBJECT = arms.Subject("demo", "model", "demo", "strong", 1000, (), Path("made"), 1)


def test_all_servers_get_the_same_options_of_vllm() -> None:
    options = ["--max-model-len", "7"]
    assert all(arms.command_of(name, SUBJECT, options)[-2:] == options for name in ("stock", "mooring", *arms.SLOTS))


def test_the_stock_server_loads_nothing_of_mooring() -> None:
    given = {"VLLM_PLUGINS": "mooring,other", "VLLM_FOO": "1", "PATH": "p"}
    found = arms.environment_of("stock", SUBJECT, given)
    assert found["VLLM_PLUGINS"] == "other"
    assert "VLLM_FOO" not in found and found["PATH"] == "p"
    assert found == arms.environment_of("mooring", SUBJECT, given)
    assert not any("mooring" in word for word in arms.command_of("stock", SUBJECT, []))


def test_a_server_shares_the_clients_session_and_has_a_group_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = arms.Server("any", [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "log")
    monkeypatch.setattr(server, "_answers", lambda: True)
    server.start()
    try:
        pid = server._process.pid
        assert (os.getsid(pid), os.getpgid(pid)) == (os.getsid(0), pid)
    finally:
        server.stop()


def test_a_server_that_dies_says_why_in_its_last_words(tmp_path: Path) -> None:
    script = "import sys; print('mooring: no axis is known'); sys.exit(3)"
    server = arms.Server("mooring", [sys.executable, "-c", script], {}, tmp_path / "log")
    with pytest.raises(CannotMeasure, match="mooring server stopped with code 3: mooring: no axis is known"):
        server.start()


# --- whole runs ----------------------------------------------------------------------------------


class FakeServer:
    """Its worker takes 1 CPU second between two looks, and it dies when it is told to."""

    dead = False

    started: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name, self.url, self.stopped, self._cpu = name, "u", False, 0.0

    def start(self) -> None:
        FakeServer.started.append(self.name)

    def check(self) -> None:
        if FakeServer.dead:
            raise CannotMeasure(f"the {self.name} server stopped with code -9: killed")

    def cpu_by_process(self) -> dict[str, float]:
        self._cpu += 1.0
        return {"api": 0.5, "Worker": self._cpu}

    def suspend(self) -> None: ...
    def resume(self) -> None: ...

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FakeServer]]:
    """A run of overhead.py without a server; blocks of `stock` are a tenth faster."""
    made: dict[str, FakeServer] = {}

    def servers(subject: Any, names: list[str], *rest: Any) -> dict[str, FakeServer]:
        made.update({arms.ARMS[name].server: FakeServer(arms.ARMS[name].server) for name in names})
        return made

    def run(given: Pass) -> Heard:
        stock = given.target.answered == [None]
        seconds = given.requests * (0.09 if stock else 0.1)
        return Heard([0.1], [0.003] * (given.workload.answer_tokens > 1), [], [], seconds, 0.01)

    monkeypatch.setattr(overhead, "servers", servers)
    monkeypatch.setattr(load, "run", run)
    monkeypatch.setattr(FakeServer, "dead", False)
    monkeypatch.setattr(FakeServer, "started", [])
    yield made


def result_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_whole_run_ends_in_its_json(
    fakes: dict[str, FakeServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "result.json"
    assert overhead.main(["--model", "demo", "--pairs", "3", "--block-seconds", "2", "--out", str(out)]) == 0
    found = result_of(capsys)
    assert found == json.loads(out.read_text())
    assert found["partial"] is False
    assert len(found["blocks"]) == 3 * 2 * 3
    ratio = found["results"]["decode"]["ratios"]["default/stock"]["tokens_per_s"]
    assert ratio["pairs"] == pytest.approx([0.9] * 3)
    assert found["results"]["prefill"]["null"]["tokens_per_s"]["pairs"] == [1.0]
    assert [target["met"] for target in found["targets"]] == [False, False]
    assert {"commit", "date", "versions", "processor"} <= found["where"].keys()
    assert all(server.stopped for server in fakes.values())
    assert FakeServer.started == ["stock", "mooring", "mooring", "stock"]
    assert [block["start"] for block in found["blocks"] if block["place"] == 0] == [0, 0, 0, 0, 1, 1]
    assert found["blocks"][0]["resting_servers_cpu_s"] == {"mooring": 1.0}
    assert found["blocks"][0]["server_cpu_s_by_process"] == {"api": 0.0, "Worker": 1.0}


def test_an_interrupted_run_keeps_its_blocks_and_says_so(
    fakes: dict[str, FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = overhead.blocks

    def blocks(run: Any, workload: Any, number: int, order: Any) -> list[dict[str, Any]]:
        if number == 1:
            raise KeyboardInterrupt
        return measured(run, workload, number, order)

    monkeypatch.setattr(overhead, "blocks", blocks)
    out = tmp_path / "result.json"
    assert overhead.main(["--model", "demo", "--workload", "decode", "--out", str(out)]) == INTERRUPTED_CODE
    found = result_of(capsys)
    assert found == json.loads(out.read_text())
    assert found["partial"] is True and found["stopped"] == INTERRUPTED
    assert len(found["blocks"]) == 3
    assert all(server.stopped for server in fakes.values())


def test_what_was_measured_is_on_disk_after_every_round(
    fakes: dict[str, FakeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "result.json", []

    def save(path: Path, document: Mapping[str, Any]) -> None:
        record.save(path, document)
        seen.append(json.loads(out.read_text()))

    monkeypatch.setattr(overhead, "save", save)
    overhead.main(["--model", "demo", "--short", "--workload", "prefill", "--out", str(out)])
    assert [len(one["blocks"]) for one in seen] == [3, 6, 6]
    assert [one["partial"] for one in seen] == [True, True, False]


def test_a_server_that_dies_ends_the_run_in_one_line(
    fakes: dict[str, FakeServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered, calls = load.run, []

    def run(given: Pass) -> Heard:
        calls.append(given)
        if len(calls) > 15:
            FakeServer.dead = True
            raise CannotMeasure("the server broke off")
        return answered(given)

    monkeypatch.setattr(load, "run", run)
    assert overhead.main(["--model", "demo", "--short", "--workload", "decode"]) == 2
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "overhead: the mooring server stopped with code -9: killed"
    assert json.loads(told.out.splitlines()[-1])["partial"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model"),
        (["--model", "demo", "--arms", "stock,nothing"], "there is no arm 'nothing'"),
        (["--model", "demo", "--arms", "off,default"], "name 'stock'"),
        (["--model", "demo", "--pairs", "0"], "must be above 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        overhead.parse(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_any_other_model_is_capped_in_the_same_share_of_its_layers() -> None:
    assert stand_in.place_in(28) == stand_in.PLACES[stand_in.QWEN]
    assert stand_in.place_in(64) == (range(39, 57), 32) and stand_in.place_in(4) == (range(2, 4), 2)
    assert [w.prompt_tokens for w in overhead.workloads_of("some/model")] == [16, 1024]
    assert overhead_result.targets("some/model", {}, 20, 30.0) == []


def test_short_is_two_pairs_of_five_seconds() -> None:
    options = overhead.parse(["--model", "demo", "--short"])
    assert (options.pairs, options.block_seconds, options.starts) == (2, 5.0, 1)


def test_the_share_of_lifted_tokens_is_the_servers_own_reading() -> None:
    layers = {"3": {"lifted_share": 0.0}, "4": {"lifted_share": 0.5}, "5": {"lifted_share": 0.25}}
    told = {"monitored_layer": 3, "layers": layers, "measured_tokens": 7, "complete": True}
    found = overhead.lifted([json.dumps({"mooring": told}).encode()] * 2 + [b"{}"])
    assert found == {"share": 0.375, "by_layer": {"4": 0.5, "5": 0.25}, "tokens": 14, "complete": True}
    assert overhead.lifted([b"{}"]) is None


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    record.save(path, {"a": 1})
    with pytest.raises(TypeError):
        record.save(path, {"a": time})
    assert [json.loads(found.read_text()) for found in tmp_path.iterdir()] == [{"a": 1}]
