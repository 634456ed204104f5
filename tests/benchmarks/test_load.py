"""`mooring bench load` against servers of a known pace: a slow arm is found with its size, an equal one is not."""

import itertools
import json
import os
import signal
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from fake_load import Paced
from fake_openai import served
from mooring_bench import load
from mooring_bench.command import bench
from mooring_bench.heard import Heard
from mooring_bench.load_result import card
from mooring_bench.stock_client import split

QUICK = ("--concurrency", "2", "--pairs", "8", "--block-seconds", "0.4", "--input-tokens", "8", "--output-tokens", "6",
         "--rest-seconds", "0")  # fmt: skip
ASKED_FIRST = 3
"""Requests that find out about a server and two arms."""
PROFILES = ("off", "slow", "strong")


def run(fake: Paced, *arguments: str) -> int:
    return bench(["load", fake.url, *QUICK, *arguments])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def holds(interval: dict[str, Any], ratio: float) -> bool:
    """But for 1 %: nine intervals of 95 % in one test do not all hold what they should."""
    return bool(interval["low"] * 0.99 <= ratio <= interval["high"] * 1.01)


def paced(**different: Any) -> Paced:
    return Paced(profiles=PROFILES, slower={"slow": 1.25}, **different)


def test_a_slower_arm_is_found_with_its_size_and_an_equal_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "load.json"
    with served(fake := paced(pace=0.02), fake.routes()):  # of which the machine's own time is but a little
        assert run(fake, "--arms", "off,slow,strong", "--out", str(out)) == 0
    found = document(capsys)
    assert found == json.loads(out.read_text()) and not found["partial"]
    rung = found["results"]["2"]
    for number, size in (("e2e_ms.p50", 1.25), ("itl_ms.p50", 1.25), ("tokens_per_s", 1 / 1.25)):
        slow, equal, null = (rung[arm]["ratios"][number] for arm in ("slow", "strong", "off"))
        assert slow["median"] == pytest.approx(size, rel=0.05), number
        assert not slow["low"] <= 1 <= slow["high"], number
        assert holds(slow, size), number
        assert equal["median"] == pytest.approx(1, rel=0.03) and null["median"] == pytest.approx(1, rel=0.03)
        assert holds(equal, 1) and holds(null, 1), number
    assert rung["off"]["metrics"]["failed"] == 0 and rung["slow"]["metrics"]["blocks"] == 8
    assert rung["off"]["metrics"]["cached_tokens"] == 16 * rung["off"]["metrics"]["succeeded"]
    assert fake.together == {("off",), ("slow",), ("strong",)}, "one arm in flight at a time"
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") == 10 and "slow, 2 at a time" in page and "http" not in page


def test_both_arms_of_a_round_are_asked_the_same_and_no_round_like_another(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--arms", "off,strong", "--pairs", "4") == 0
    found = document(capsys)
    requests = found["settings"]["requests"]["2"]
    measured = fake.bodies[-8 * requests :]
    rounds = [sorted(body["prompt"] for body in measured[i * requests :][:requests]) for i in range(8)]
    assert all(rounds[i] == rounds[i + 1] for i in range(0, 8, 2))
    assert len({tuple(prompts) for prompts in rounds}) == 4
    arms = [block["arm"] for block in found["blocks"]]
    assert arms == ["off", "strong", "strong", "off"] * 2
    assert all(body["temperature"] == 0.0 and body["max_tokens"] == 6 for body in measured)


def test_no_block_finds_the_prompts_of_another_in_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--arms", "off,strong", "--pairs", "2", "--concurrency", "1,2") == 0
    found = document(capsys)
    blocks = defaultdict[str, list[str]](list)
    for body in fake.bodies[ASKED_FIRST:]:
        blocks[body["cache_salt"]].append(body["prompt"])
    measured = list(blocks.values())[-8:]  # two rounds of two rungs and two arms
    assert [len(prompts) for prompts in measured] == [block["succeeded"] for block in found["blocks"]]
    assert len({tuple(sorted(prompts)) for prompts in measured}) == 4, "arms are asked the same, no rung or round is"
    assert len(blocks) >= 8 + 4 + 2, "a warm-up of each arm at each rung, and a pilot at each"
    assert all(len(salt) <= 128 and not set(salt) & set("@/\\") for salt in blocks)


@pytest.mark.parametrize("mode", ["blocks", "mixed"])
def test_talks_of_two_arms_share_no_cache(mode: str) -> None:
    with served(fake := paced(), fake.routes()):
        short = ("--pairs", "1", "--workload", "talks", "--block-seconds", "0.1", "--mode", mode)
        assert run(fake, "--arms", "off,strong", *short) == 0
    assert fake.salts["off"] & fake.salts["strong"] == {""}, "of what is asked before, which is one token"
    talks = [body for body in fake.bodies if "messages" in body]
    first, later = ({body["cache_salt"] for body in talks if (len(body["messages"]) == 1) is is_first}
                    for is_first in (True, False))  # fmt: skip
    assert later and later <= first, "the turns of a talk share their salt"


def test_a_second_server_is_the_stock_arm(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(), fake.routes()), served(stock := Paced(), stock.routes()):
        assert run(fake, "--arms", "default", "--stock", stock.url, "--pairs", "2") == 0
    found = document(capsys)
    assert [(arm["name"], arm["profile"]) for arm in found["arms"]] == [("default", "strong"), ("stock", None)]
    assert set(fake.asked) == {"strong"} and set(stock.asked) == {""}


def test_any_server_is_an_arm_under_the_profile_of_requests_that_name_none(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(), fake.routes()), served(other := paced(), other.routes()):
        assert run(fake, "--arms", "off", "--also", f"other={other.url}", "--pairs", "2") == 0
    found = document(capsys)
    assert [(arm["name"], arm["profile"]) for arm in found["arms"]] == [("off", "off"), ("other", "strong")]
    assert set(other.asked) == {"strong"}
    succeeded = {arm: of["metrics"]["succeeded"] for arm, of in found["results"]["2"].items()}
    assert succeeded["other"] == succeeded["off"] > 0


def test_servers_come_to_rest_before_another_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    rests = ("--pairs", "2", "--block-seconds", "0.1", "--rest-seconds", "0.5")
    with served(fake := paced(), fake.routes()), served(stock := Paced(), stock.routes()):
        assert run(fake, "--arms", "off", "--stock", stock.url, *rests) == 0
        found = document(capsys)
        assert run(fake, "--arms", "off,strong", *rests) == 0
    assert found["settings"]["rest_seconds"] == 0.5
    blocks = found["blocks"]
    idle = [after["ended"] - after["seconds"] - before["ended"] for before, after in itertools.pairwise(blocks)]
    assert min(idle) > 0.4
    assert document(capsys)["settings"]["rest_seconds"] == 0, "of one server, which is never at rest"


@pytest.mark.parametrize("workload", ["random", "talks"])
def test_no_server_gets_the_key_of_another(workload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-server")
    with served(fake := paced(), fake.routes()), served(stock := Paced(), stock.routes()):
        short = ("--arms", "default", "--pairs", "1", "--workload", workload, "--block-seconds", "0.1")
        assert run(fake, *short, "--stock", stock.url) == 0
        assert (fake.keys, stock.keys) == ({"Bearer of-the-server"}, {""})
        monkeypatch.setenv("MOORING_STOCK_API_KEY", "of-the-stock-server")
        fake.keys.clear(), stock.keys.clear()
        assert run(fake, *short, "--stock", stock.url) == 0
        assert (fake.keys, stock.keys) == ({"Bearer of-the-server"}, {"Bearer of-the-stock-server"})
        monkeypatch.setenv("MOORING_THE_SECOND_API_KEY", "of-the-second")
        fake.keys.clear(), stock.keys.clear()
        assert run(fake, *short, "--also", f"the-second={stock.url}") == 0
        assert (fake.keys, stock.keys) == ({"Bearer of-the-server"}, {"Bearer of-the-second"})


def test_a_mixed_load_has_all_arms_in_one_batch_and_says_what_that_means(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--arms", "off,slow", "--mode", "mixed", "--concurrency", "4", "--pairs", "2") == 0
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert ("off", "slow") in fake.together and "these ratios do not say what an arm costs" in out
    succeeded = {arm: of["metrics"]["succeeded"] for arm, of in found["results"]["4"].items()}
    assert succeeded["off"] == succeeded["slow"] > 0
    assert found["results"]["4"]["slow"]["ratios"]["itl_ms.p50"]["median"] == pytest.approx(1.25, rel=0.1)


def test_talks_send_the_servers_own_answers_back(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--arms", "off,slow", "--workload", "talks", "--pairs", "2") == 0
    found = document(capsys)
    longest = max((body["messages"] for body in fake.bodies if "messages" in body), key=len)
    assert [m["role"] for m in longest[:4]] == ["user", "assistant", "user", "assistant"]
    assert longest[1]["content"] == " a" * 6 and found["settings"]["talks"] == "demo"
    assert found["results"]["2"]["slow"]["ratios"]["itl_ms.p50"]["median"] == pytest.approx(1.25, rel=0.1)


def test_a_prompt_file_without_talks_and_sharegpt_without_its_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"set": "a", "id": "1", "messages": [{"role": "user", "content": "hi"}]}))
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--workload", "talks", "--talks", str(file)) == 2
        assert run(fake, "--workload", "sharegpt") == 2
    assert "holds no talk of several turns" in (error := capsys.readouterr().err)
    assert "--workload sharegpt and --sharegpt FILE belong together" in error


def test_sharegpt_prompts_are_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [{"from": "human", "value": "What is the sea to you?"}, {"from": "gpt", "value": "I think it is good."}]
    file = tmp_path / "sharegpt.json"
    file.write_text(json.dumps([{"conversations": said}] * 40))
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--workload", "sharegpt", "--sharegpt", str(file), "--pairs", "2") == 0
    assert {body["prompt"] for body in fake.bodies[4:]} == {"What is the sea to you?"}


# --- servers that are not what was hoped for -----------------------------------------------------


def test_a_server_without_mooring_works_as_the_stock_arm(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := Paced(), fake.routes()):
        assert run(fake, "--pairs", "2") == 0
        assert document(capsys)["arms"][0]["name"] == "stock"
        assert run(fake, "--arms", "off,strong") == 2
    assert "has no Mooring: it is one arm, 'stock'" in capsys.readouterr().err


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--arms", "off,nope"), "arm 'nope' cannot be measured: 400: 'nope' is not a profile that can be chosen here"),
    (("--arms", "off", "--mode", "mixed"), "needs two arms of one server at least"),
    (("--also", "one=http://127.0.0.1:9", "--mode", "mixed"), "no server answers at http://127.0.0.1:9"),
    (("--also", "off=http://127.0.0.1:9"), "there is an arm 'off' already: give the server at http://127.0.0.1:9"),
    (("--arms", "off,stock"), "name it with --stock URL"),
    (("--model", "other"), "serves no model 'other'; it serves demo"),
    (("--out", "/nowhere/load.json"), "name a file in a folder that exists"),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED)
def test_what_cannot_be_measured_is_one_line(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(fake := paced(), fake.routes()):
        assert run(fake, *arguments) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_a_stock_server_with_mooring_and_an_arm_under_another_profile_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with served(fake := paced(), fake.routes()):
        assert run(fake, "--stock", fake.url) == 2
    with served(liar := paced(runs_under=lambda profile: "strong"), liar.routes()):
        assert run(liar, "--arms", "off") == 2
    assert bench(["load", "http://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "has Mooring: the arm stock is vLLM without it" in error
    assert "asked for under profile 'off' ran under 'strong'" in error
    assert "no server answers at http://127.0.0.1:9" in error


def test_a_server_that_dies_leaves_a_partial_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "load.json"
    with served(fake := paced(dies_after=400), fake.routes()):
        assert run(fake, "--arms", "off,strong", "--pairs", "500", "--out", str(out)) == 1
    found = json.loads(out.read_text())
    assert found["partial"] and found["stopped"].startswith("a server went away") and found["blocks"]
    assert found["results"]["2"]["off"]["metrics"]["failed"] > 0
    assert "**Partial: a server went away" in capsys.readouterr().out


def test_a_server_that_answers_nothing_is_told_before_it_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with served(fake := paced(dies_after=3), fake.routes()):
        assert run(fake, "--arms", "off,strong") == 1
    found = document(capsys)
    assert found["stopped"].startswith("no request of arm 'off' succeeds: ") and found["blocks"] == []


def test_ctrl_c_leaves_a_partial_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may have it ignored
    out = tmp_path / "load.json"
    with served(fake := paced(), fake.routes()):
        def interrupt() -> None:
            while not out.exists():
                threading.Event().wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        assert run(fake, "--arms", "off,strong", "--pairs", "500", "--out", str(out)) == 130
    signal.signal(signal.SIGINT, before)
    found = json.loads(out.read_text())
    assert (found["partial"], found["stopped"]) == (True, "interrupted") and found["blocks"]


def test_sigterm_leaves_a_partial_result_too(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    with served(fake := paced(), fake.routes()):
        def end() -> None:
            while not out.exists():
                threading.Event().wait(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end).start()
        assert run(fake, "--arms", "off,strong", "--pairs", "500", "--out", str(out)) == 130
    found = json.loads(out.read_text())
    assert (found["partial"], found["stopped"]) == (True, "interrupted") and found["blocks"]


# --- in small ------------------------------------------------------------------------------------


def test_a_mixed_result_is_dealt_by_request_and_failures_are_no_answers() -> None:
    result = {
        "duration": 2.0, "errors": ["", "", "Traceback\nTimeoutError: late\n", ""], "output_lens": [3, 4, 0, 0],
        "ttfts": [0.1, 0.2, 0, 0], "itls": [[0.01, 0.02], [0.03] * 3, [], []], "latencies": [0.13, 0.29, 0, 0],
    }  # fmt: skip
    off, slow = split(result, 2)
    assert (off.tokens, off.errors, slow.errors) == (3, ["TimeoutError: late"], ["an answer without a token"])
    assert slow.told()["tokens_per_s"] == 2.0 and slow.told()["itl_ms"]["p50"] == 30.0


def test_zero_successes_are_no_number_and_no_pair() -> None:
    told = Heard(seconds=1.0, errors=["x", "x", "y"]).told()
    assert (told["tokens_per_s"], told["ttft_ms"], told["failed"], told["errors"]) == (None, None, 3, ["x", "y"])
    good = Heard(seconds=1.0)
    good.answered(4, 0.1, [0.1] * 3, 0.4)
    head = {"concurrency": 1, "cached_tokens": None}
    blocks = [{"arm": "off", "round": r, **head, **good.told()} for r in (0, 1)]
    blocks += [{"arm": "on", "round": 0, **head, **told}, {"arm": "on", "round": 1, **head, **good.told()}]
    found = load.compared(blocks, ["off", "on"], [1])
    assert found["1"]["on"]["ratios"]["tokens_per_s"]["pairs"] == [1.0]
    shown = {
        "results": found, "arms": [{"name": "off"}, {"name": "on"}], "partial": False, "note": None, "blocks": blocks,
        "where": {"cores": 2, "processor": "p", "date": "d", "commit": "c"},
        "settings": {"workload": "random", "pairs": 2, "block_seconds": 1.0, "mode": "blocks"},
    }  # fmt: skip
    assert "| 1 | on | 4 | 100 | 100 | 100 | 100 | 100 | 100 | 400 | 400 | 400 | 3 of 4 | - |" in card(shown)


@pytest.mark.parametrize(
    "arguments",
    [("--concurrency", "8,1"), ("--concurrency", "0"), ("--arms", "a,a"), ("--block-seconds", "nan"), ("--pairs", "x")],
)
def test_options_that_make_no_sense_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench(["load", "http://x", *arguments])
    assert stopped.value.code == 2


def test_the_command_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench([]) == 2 and bench(["--help"]) == 0 and bench(["speed"]) == 2
    assert "there is no command 'bench speed'" in capsys.readouterr().err
