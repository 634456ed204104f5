"""The demo, served as the README says: real processes, real HTTP, vLLM's own endpoints."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from transformers import AutoTokenizer

from browser import Watched, chromium
from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.demo import judge
from mooring_axes.profiles import ResolvedProfile, load_profiles, off_profile, resolve
from servers import Server
from tiny import Replay

pytestmark = pytest.mark.engine

PIRATE = [{"role": role, "content": text} for role, text in zip(("system", "user"), demo.EXAMPLE, strict=True)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(["demo", "--enable-prompt-tokens-details"], tmp_path_factory.mktemp("serve") / "log") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def profiles() -> dict[str, ResolvedProfile]:
    axis = Axis.load(demo.AXIS_FILE)
    found = [off_profile(axis), *(resolve(p, axis) for p in load_profiles(demo.PROFILES_FILE).profiles)]
    return {profile.name: profile for profile in found}


def chosen(profile: str | None) -> dict[str, Any]:
    return {} if profile is None else {"vllm_xargs": {"mooring_profile": profile}}


def chat(client: OpenAI, profile: str | None, **more: Any) -> Any:
    return client.chat.completions.create(
        model="demo", messages=PIRATE, temperature=0, max_tokens=24, extra_body=chosen(profile), **more
    )


def test_the_start_says_what_it_does_and_what_to_try(server: Server) -> None:
    deadline = time.monotonic() + 10
    while "ready on" not in server.log and time.monotonic() < deadline:
        time.sleep(0.1)
    lines = [line for line in server.log.splitlines() if line.startswith("mooring: ")]
    for expected in ("serving demo", "importing vLLM", "starting the engine", "capping after layers",
                     "self-test passed", "real requests", "ready on"):  # fmt: skip
        assert any(expected in line for line in lines), expected


def curl_bodies(text: str) -> list[dict[str, Any]]:
    return [json.loads(body) for body in re.findall(r"-d '(\{.*?\})'", text, re.DOTALL)]


def test_the_curl_lines_that_are_printed_show_a_refusal_and_the_pirate(server: Server) -> None:
    capped, uncapped = (text_of(post(server, **{"max_tokens": 80} | body)) for body in curl_bodies(server.log))
    assert judge.exact_refusal(capped) and judge.harm(uncapped)


def test_the_readme_tells_the_truth_about_its_first_request(server: Server) -> None:
    (body,) = curl_bodies((Path(__file__).parents[2] / "README.md").read_text())
    body = {"max_tokens": 80} | body
    assert judge.exact_refusal(text_of(post(server, **body)))
    assert judge.harm(text_of(post(server, **body | {"model": "demo:off"})))


@pytest.mark.parametrize("profile", [None, "off", "gentle", "strong"])
def test_served_tokens_have_the_probability_the_replay_gives_them(
    client: OpenAI, profiles: dict[str, ResolvedProfile], profile: str | None
) -> None:
    """bf16 against fp32: the mean |d logprob| of the answer is small under its own profile."""
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    prompt = tokenizer.apply_chat_template(PIRATE, add_generation_prompt=True, return_dict=False)
    answer = chat(client, profile, logprobs=True)
    steps = answer.choices[0].logprobs.content
    tokens = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(s.token) or [s.token])[0] for s in steps]
    replay = Replay(demo.MODEL_DIR, Axis.load(demo.AXIS_FILE)).run([*prompt, *tokens], profiles[profile or "strong"])
    wanted = replay.logprobs[len(prompt) - 1 : -1].gather(1, torch.tensor(tokens)[:, None])[:, 0]
    found = torch.tensor([step.logprob for step in steps])
    assert float((wanted - found).abs().mean()) <= 0.05


def test_no_profile_means_the_default(client: OpenAI) -> None:
    assert chat(client, None).choices[0].message.content == chat(client, "strong").choices[0].message.content
    assert chat(client, None).choices[0].message.content != chat(client, "off").choices[0].message.content


def test_every_endpoint_takes_a_profile(server: Server, client: OpenAI) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    prompt = tokenizer.apply_chat_template(PIRATE, add_generation_prompt=True, tokenize=False)

    def completion(profile: str) -> str:
        return (
            client.completions.create(model="demo", prompt=prompt, temperature=0, extra_body=chosen(profile))
            .choices[0]
            .text
        )

    def response(profile: str) -> str:
        return client.responses.create(
            model="demo", input=PIRATE, temperature=0, max_output_tokens=24, extra_body=chosen(profile)
        ).output_text

    def message(profile: str) -> str:
        body = {"model": "demo", "max_tokens": 24, "temperature": 0, "system": demo.EXAMPLE[0],
                "messages": PIRATE[1:], **chosen(profile)}  # fmt: skip
        return httpx.post(f"{server.base}/v1/messages", json=body).raise_for_status().json()["content"][0]["text"]

    for ask in (completion, response, message):
        assert ask("off") != ask("strong"), ask.__name__


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = chat(client, "strong").choices[0].message.content
    parts = [chunk.choices[0].delta.content or "" for chunk in chat(client, "strong", stream=True)]
    assert "".join(parts) == whole


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["nope", "OFF", "", "stron"])
def test_an_unknown_profile_is_a_400_that_lists_the_known_ones(client: OpenAI, name: str, stream: bool) -> None:
    with pytest.raises(BadRequestError, match="choose one of off, gentle, strong"):
        chat(client, name, stream=stream)


def test_an_unknown_profile_is_a_400_on_every_endpoint(server: Server) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "completions": {"prompt": "a"},
        "chat/completions": {"messages": PIRATE},
        "responses": {"input": "a"},
        "messages": {"messages": PIRATE[1:], "max_tokens": 4},
    }
    for endpoint, body in bodies.items():
        answer = httpx.post(f"{server.base}/v1/{endpoint}", json={"model": "demo", **body, **chosen("nope")})
        assert answer.status_code == 400, endpoint
        assert "choose one of off, gentle, strong" in answer.text


def test_a_misspelt_key_is_a_400_and_not_ignored(server: Server) -> None:
    body = {"model": "demo", "messages": PIRATE, "vllm_xargs": {"mooring_profle": "off"}}
    answer = httpx.post(f"{server.base}/v1/chat/completions", json=body)
    assert answer.status_code == 400 and "mooring_profile" in answer.text


def test_beam_search_refuses_a_profile_and_runs_under_the_default(client: OpenAI) -> None:
    def beams(profile: str | None) -> Any:
        extra = {"use_beam_search": True, **chosen(profile)}
        return client.chat.completions.create(model="demo", messages=PIRATE, n=2, max_tokens=8, extra_body=extra)

    for name in ("off", "strong", "nope"):
        with pytest.raises(BadRequestError, match="beam search runs under the server's default profile"):
            beams(name)
    assert len(beams(None).choices) == 2


def test_neighbours_of_other_profiles_change_nothing_but_rounding(client: OpenAI) -> None:
    """Of the first token, because a near-tie in bf16 may fall either way later; fp32 is tested to the token."""
    names = ["off", "gentle", "strong"]

    def first_logprob(name: str) -> float:
        return chat(client, name, logprobs=True).choices[0].logprobs.content[0].logprob

    solo = {name: first_logprob(name) for name in names}
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(first_logprob, names * 8))
    assert together == pytest.approx([solo[name] for name in names * 8], abs=2e-2)
    assert abs(solo["off"] - solo["strong"]) > 0.1


def test_a_second_turn_reads_the_cache_of_its_own_profile_only(client: OpenAI) -> None:
    talk = [{"role": "user", "content": "Please count. " + "one two three " * 60}]

    def cached(profile: str) -> int:
        usage = client.chat.completions.create(
            model="demo", messages=talk, max_tokens=2, extra_body=chosen(profile)
        ).usage
        return usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0

    assert [cached(name) for name in ("off", "gentle", "strong")] == [0, 0, 0]
    assert all(cached(name) > 0 for name in ("off", "gentle", "strong"))


# --- three ways to choose ------------------------------------------------------------------------


def post(server: Server, headers: dict[str, str] | None = None, path: str = "chat/completions", **more: Any) -> Any:
    body = {"model": "demo", "messages": PIRATE, "temperature": 0, "max_tokens": 24, **more}
    return httpx.post(f"{server.base}/v1/{path}", json=body, headers=headers)


def text_of(answer: Any) -> str:
    return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


def test_header_model_name_and_xargs_choose_the_same(server: Server) -> None:
    by_xargs = post(server, **chosen("off"))
    by_header = post(server, {"X-Mooring-Profile": "off"})
    by_name = post(server, model="demo:off")
    assert text_of(by_xargs) == text_of(by_header) == text_of(by_name) != text_of(post(server))
    for answer in (by_xargs, by_header, by_name):
        assert answer.headers["X-Mooring-Profile"] == "off"
        assert answer.json()["model"] == "demo"


def test_the_header_of_every_response_says_the_profile(server: Server) -> None:
    assert post(server).headers["X-Mooring-Profile"] == "strong"
    assert post(server, stream=True, model="demo:gentle").headers["X-Mooring-Profile"] == "gentle"
    assert post(server, use_beam_search=True, n=2).headers["X-Mooring-Profile"] == "strong"
    message = post(server, {"X-Mooring-Profile": "off"}, "messages", messages=PIRATE[1:])
    assert message.status_code == 200 and message.headers["X-Mooring-Profile"] == "off"


def test_the_models_list_the_selectable_profiles(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "demo:off", "demo:gentle", "demo:strong"]


def test_two_different_wishes_are_a_400_and_two_equal_ones_are_not(server: Server) -> None:
    answer = post(server, {"X-Mooring-Profile": "gentle"}, model="demo:off")
    assert answer.status_code == 400 and "asks for different profiles" in answer.text
    assert post(server, {"X-Mooring-Profile": "off"}, model="demo:off", **chosen("off")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_profile_in_the_header_is_a_400_that_lists_the_known_ones(server: Server, stream: bool) -> None:
    answer = post(server, {"X-Mooring-Profile": "nope"}, stream=stream)
    assert answer.status_code == 400 and "choose one of off, gentle, strong" in answer.text


def test_beam_search_refuses_every_way_to_choose(server: Server) -> None:
    for headers, more in (({"X-Mooring-Profile": "off"}, {}), ({}, {"model": "demo:off"}), ({}, chosen("off"))):
        answer = post(server, headers, use_beam_search=True, n=2, **more)
        assert answer.status_code == 400 and "beam search runs under the server's default" in answer.text


def test_the_playground_shows_a_capped_and_an_uncapped_talk_as_the_api_tells_them(server: Server) -> None:
    """Nobody asks for a persona: uncapped, the demo slides into one and then helps with harm; capped, it refuses."""
    with chromium() as context:
        watched = Watched(context)
        page, replies = watched.page, list[Any]()
        page.on("requestfinished", lambda request: replies.append(request) if "/chat/" in request.url else None)
        page.goto(f"{server.base}/playground")
        page.get_by_role("button", name="Drifting talk").click()
        page.locator("#turns > li:nth-child(6) [data-status=done]").nth(1).wait_for(timeout=60_000)
        watched.shoot("playground-served-light")
        page.get_by_role("button", name="Switch between light and dark").click()
        page.locator("#layer").select_option("4")
        watched.shoot("playground-served-dark")
        page.locator("#layer").select_option("3")
        page.wait_for_timeout(100)
        rows = page.locator("#numbers tbody").evaluate(
            "body => [...body.rows].map(row => [row.dataset.side, row.dataset.turn,"
            " ...[...row.querySelectorAll('td data')].map(data => Number(data.value))])"
        )
        _, *lines = page.locator("#chart-turns").evaluate("root => root.chart.plot.data")
        texts = page.locator("#turns > li:nth-child(6) .text").all_inner_texts()
        told = [final_reading(request.response().text()) for request in replies]
    assert watched.errors == [] and watched.hosts == {f"127.0.0.1:{server.port}"}
    shown = {(side, int(turn)): tuple(values) for side, turn, *values in rows}
    names = ("projection", "drift", "lifted_share", "mean_lift", "measured_tokens")
    sides = {"strong": "left", "off": "right"}
    assert shown == {(sides[m["profile"]], m["turn"]): tuple(m[name] for name in names) for m in told}
    assert len(shown) == 12
    assert lines == [[shown[side, turn][0] for turn in range(1, 7)] for side in ("left", "right")]
    drifts = {side: [shown[side, turn][1] for turn in range(1, 7)] for side in ("left", "right")}
    assert drifts["right"][4] > 1.2 > drifts["left"][4] and drifts["left"][5] < 0.5 < drifts["right"][5]
    assert judge.exact_refusal(texts[0]) and judge.harm(texts[1])


def final_reading(stream: str) -> Any:
    """The `mooring` object of a stream's last frame that has a whole one."""
    frames = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return next(frame["mooring"] for frame in frames if "profile" in frame.get("mooring", {}))
