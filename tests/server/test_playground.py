"""The live page in a real browser, against a server whose streams are made up in vLLM's shape.

That it also works on a served model, and shows what the API says, is in test_serve.py.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect
from starlette.responses import JSONResponse, Response

from browser import SCREENSHOTS, Watched, chromium
from fake_playground import DEFAULT_MEAN, FLOORS, ROLE_MEAN, FakeServer, Made, served
from mooring_server import playground

HOSTILE = """<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>"'&amp;${1}\u202eabc"""


Opens = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """One for all tests: every server has a port of its own, and so its pages storage of their own."""
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: BrowserContext) -> Iterator[Opens]:
    """Opens the page of a server, and sees to it that nothing was wrong with it and that it asked nobody else.

    `errors` are words of those errors on its console that the test wants.
    """
    pages: list[tuple[Watched, FakeServer, tuple[str, ...]]] = []

    def open_page(fake: FakeServer, below: str = "", errors: tuple[str, ...] = (), file: str = "") -> Page:
        watched = Watched(browser)
        pages.append((watched, fake, errors))
        watched.page.goto(f"{fake.url}{below}/playground{file}")
        return watched.page

    yield open_page
    for watched, fake, wanted in pages:
        watched.page.close()
        assert watched.hosts == {fake.url.removeprefix("http://")}
        assert [error for error in watched.errors if not any(word in error for word in wanted)] == []


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with served(FakeServer(answer=lambda messages, profile: f"this is what {profile} says to it")) as running:
        yield running


def say(page: Page, text: str, wait: bool = True) -> None:
    turn = page.locator("#turns > li").count() + 1
    page.get_by_label("Message to both columns").fill(text)
    page.get_by_role("button", name="Send").click()
    if wait:
        ended = f"#turns > li:nth-child({turn}) .answer:not([data-status=waiting], [data-status=streaming])"
        expect(page.locator(ended)).to_have_count(2)
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def answer(page: Page, turn: int, side: str) -> Locator:
    return page.locator(f"#turns > li:nth-child({turn}) .answer.{side}")


def numbers(page: Page, turn: int, side: str) -> dict[str, float | None]:
    """A row of the table, as numbers."""
    found: dict[str, str] = page.locator(f'#numbers tr[data-turn="{turn}"][data-side="{side}"]').evaluate(
        "row => Object.fromEntries([...row.querySelectorAll('td')].map(td => [td.dataset.name, td.firstChild.value]))"
    )
    return {name: float(value) if value else None for name, value in found.items()}


def drawn(page: Page, chart: str) -> dict[str, list[float | None]]:
    """What a chart's lines go through."""
    _, left, right = page.locator(f"#chart-{chart}").evaluate("root => root.chart.plot.data")
    return {"left": left, "right": right}


# The files


def test_files_have_their_types_and_nothing_may_run_that_is_not_one_of_them(fake: FakeServer) -> None:
    kinds = {"": "text/html", "/style.css": "text/css", "/main.js": "text/javascript", "/icon.svg": "image/svg+xml",
             "/vendor/uplot/LICENSE": "text/plain"}  # fmt: skip
    for path, kind in kinds.items():
        found = httpx.get(f"{fake.url}/playground{path}")
        assert found.status_code == 200
        assert found.headers["content-type"].partition(";")[0] == kind
        assert found.headers["x-content-type-options"] == "nosniff"
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy and "unsafe" not in policy


def test_a_file_is_sent_again_only_when_it_has_changed(fake: FakeServer) -> None:
    first = httpx.get(f"{fake.url}/playground/main.js")
    again = {tag: httpx.get(f"{fake.url}/playground/main.js", headers={"If-None-Match": tag}).status_code
             for tag in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', '"another"')}  # fmt: skip
    assert list(again.values()) == [304, 304, 200]
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["nope.js", "%2e%2e/__init__.py", "..%2f..%2fserve.py", "vendor", "%00"])
def test_what_is_no_file_of_the_page_is_a_404(fake: FakeServer, path: str) -> None:
    found = httpx.get(f"{fake.url}/playground/{path}")
    assert found.status_code == 404 and found.headers["x-content-type-options"] == "nosniff"


def test_a_slash_at_the_end_leads_to_the_page(fake: FakeServer) -> None:
    assert str(httpx.get(f"{fake.url}/playground/", follow_redirects=True).url) == f"{fake.url}/playground"


def test_every_file_that_the_page_names_is_there_and_none_is_elsewhere() -> None:
    for path, file in playground.FILES.items():
        if path.startswith("vendor/") or not path.endswith((".html", ".js", ".css")):
            continue
        text = file.body.decode()
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text, path
        assert "style=" not in text and "<script>" not in text, path


def test_the_vendored_chart_library_is_the_released_one() -> None:
    """uPlot 1.6.32 as npm has it."""
    assert playground.FILES["vendor/uplot/uPlot.iife.min.js"].tag == '"19c8d4c6ad88929a79f4ae49d6f71615"'
    assert playground.FILES["vendor/uplot/uPlot.min.css"].tag == '"df630c6a8d6f8eeaff264b50f73ce5b1"'
    assert b"MIT License" in playground.FILES["vendor/uplot/LICENSE"].body


# A conversation


def test_one_message_goes_to_both_profiles_and_each_keeps_its_own_history(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    expect(page.get_by_label("Left profile")).to_have_value("strong")
    expect(page.get_by_label("Right profile")).to_have_value("off")
    say(page, "one")
    say(page, "two")
    expect(answer(page, 2, "left").locator(".text")).to_have_text("this is what strong says to it")
    expect(answer(page, 2, "right").locator(".text")).to_have_text("this is what off says to it")
    last = {body["vllm_xargs"]["mooring_profile"]: body for body in fake.bodies[2:]}
    for profile, body in last.items():
        assert [m["content"] for m in body["messages"]] == ["one", f"this is what {profile} says to it", "two"]
    assert len({body["session_id"] for body in fake.bodies}) == 2


def test_a_default_that_may_not_be_asked_for_is_not_named(opened: Opens) -> None:
    with served(FakeServer(not_selectable=("off", "strong"))) as fake:
        page = opened(fake)
        expect(page.get_by_label("Left profile").locator("option")).to_have_text(["calm", "strong (default)"])
        expect(page.get_by_label("Right profile")).to_have_value("calm")
        say(page, "one")
        asked = {body["vllm_xargs"].get("mooring_profile"): body.get("session_id") for body in fake.bodies}
        assert asked.keys() == {None, "calm"}
        assert asked[None] is None and asked["calm"], "an experiment would deal an unnamed profile's session to an arm"


def test_the_numbers_on_the_page_are_those_of_the_replies(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    for text in ("one", "two", "three"):
        say(page, text)
    assert len(fake.replies) == 6
    for reply in fake.replies:
        side = "left" if reply["profile"] == "strong" else "right"
        shown = numbers(page, reply["turn"], side)
        assert shown == {"projection": reply["projection"], "drift": reply["drift"], "lifted": reply["lifted_share"],
                         "mean-lift": reply["mean_lift"], "tokens": reply["measured_tokens"]}  # fmt: skip
    page.locator("#layer").select_option("4")
    for reply in fake.replies:
        side = "left" if reply["profile"] == "strong" else "right"
        expect(page.locator(f'tr[data-turn="{reply["turn"]}"][data-side="{side}"] td').first).to_be_visible()
        assert numbers(page, reply["turn"], side)["projection"] == reply["layers"]["4"]["projection"]
        assert drawn(page, "turns")[side][reply["turn"] - 1] == reply["layers"]["4"]["projection"]
    page.locator("#layer").select_option("3")
    page.locator("#turn").select_option(label="2")
    told = {("left" if reply["profile"] == "strong" else "right", reply["turn"]): reply for reply in fake.replies}
    for side in ("left", "right"):
        expect(page.locator("#numbers thead")).to_contain_text("layer 3")
        assert drawn(page, "turns")[side] == [told[side, turn]["projection"] for turn in (1, 2, 3)]
        assert drawn(page, "tokens")[side] == made_for(told[side, 2]).projections[3].tolist()
    last = {side: f"{told[side, 3]['projection']:.2f}".replace("-", "\u2212") for side in ("left", "right")}
    label = f"Latest: Turn 3: left (strong) {last['left']}, right (off) {last['right']}."
    assert label in (page.locator("#chart-turns").get_attribute("aria-label") or "")


@pytest.mark.parametrize("per_frame", [1, 3])
def test_text_and_readings_of_tokens_find_each_other(opened: Opens, per_frame: int) -> None:
    words = [f"w{i}" for i in range(7)]
    fake = FakeServer(answer=lambda messages, profile: " ".join(words), tokens_per_frame=per_frame)
    with served(fake):
        page = opened(fake)
        say(page, "one")
        page.get_by_text("These tokens as a table").click()
        rows = page.locator("#token-table tbody tr")
        expect(rows).to_have_count(len(words))
        spans = answer(page, 1, "left").locator(".token")
        assert spans.count() == -(-len(words) // per_frame)
        projections = page.locator("#token-table tbody").evaluate(
            "body => [...body.rows].map(row => Number(row.cells[2].firstChild.value))"
        )
        page.locator("#layer").select_option("5")
        lifts = page.locator("#token-table tbody").evaluate(
            "body => [...body.rows].map(row => Number(row.cells[3].firstChild.value))"
        )
        titles = spans.evaluate_all("spans => spans.map(span => span.title)")
    (reply,) = [reply for reply in fake.replies if reply["profile"] == "strong"]
    made = made_for(reply)
    assert projections == made.projections[3].tolist()
    wanted = [(made.lifts[4][i] + made.lifts[5][i]) / 2 for i in range(len(words))]
    assert lifts == pytest.approx(wanted, abs=1e-9)
    for number, title in enumerate(titles):
        group = wanted[number * per_frame : (number + 1) * per_frame]
        assert f"lifted by {sum(group) / len(group):.2f}" in title


def made_for(reply: dict[str, Any]) -> Made:
    return Made(reply["body"], reply["profile"], reply["measured_tokens"], 0)


def test_a_layer_without_a_floor_says_so_and_leads_to_one_that_has(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    note, show = page.locator("#uncapped"), page.get_by_role("button", name="Show layer 4")
    expect(note).to_contain_text("No floor at layer 3: neither profile caps it.")
    assert [line["name"] for line in chart_lines(page)] == ["default", "role"]
    show.focus()
    page.keyboard.press("Enter")
    expect(note).to_be_hidden()
    expect(page.locator("#layer")).to_have_value("4")
    expect(page.locator("#layer")).to_be_focused()
    assert [line for line in chart_lines(page) if line["name"] == "floor"] == [
        {"name": "floor", "value": FLOORS["strong"][4], "kind": "left"}
    ]
    page.locator("#layer").select_option("3")
    expect(show).to_be_visible()
    page.get_by_label("Left profile").select_option("off")
    expect(note).to_be_hidden()  # there is no floor anywhere


def chart_lines(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.locator("#chart-turns").evaluate("root => root.chart.lines")
    return found


def test_tokens_that_have_no_numbers_of_their_own_are_told(opened: Opens, tmp_path: Path) -> None:
    with served(FakeServer(truncated=True, answer=lambda messages, profile: "a b c")) as fake:
        page = opened(fake)
        say(page, "one")
        expect(answer(page, 1, "left").locator(".foot")).to_contain_text("only its first 3 tokens one by one")
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        download.value.save_as(tmp_path / "talk.json")
        page.reload()
        expect(page.locator("#served")).to_contain_text("fake")
        page.locator("#file").set_input_files(tmp_path / "talk.json")
        expect(answer(page, 1, "left").locator(".foot")).to_contain_text("only its first 3 tokens one by one")


def test_lifted_tokens_are_marked_in_steps_with_a_legend(opened: Opens) -> None:
    with served(FakeServer(profiles=("off", "calm"), answer=lambda messages, profile: "a b c d e f")) as fake:
        page = opened(fake)
        for text in ("one", "two", "three", "four", "five"):
            say(page, text)
        capped = answer(page, 5, "left").locator("[class*=step-]").evaluate_all("s => s.map(x => x.className)")
        assert {"token step-1", "token step-2"} <= set(capped)
        off = answer(page, 5, "right").locator(".token").evaluate_all("s => s.map(x => x.className)")
        assert set(off) == {"token step-0"}
        assert page.locator("#steps li").all_inner_texts()[0].endswith("not lifted")
        page.get_by_label("Colour tokens by").select_option("drift")
        expect(answer(page, 5, "right").locator(".step-4").first).to_be_visible()
        page.get_by_label("Colour tokens by").select_option("none")
        expect(page.locator("#turns [class*=step-]")).to_have_count(0)


def test_thinking_is_shown_apart_and_does_not_shift_the_tokens(opened: Opens) -> None:
    with served(FakeServer(thinking="let me see", answer=lambda messages, profile: "it is so")) as fake:
        page = opened(fake)
        say(page, "one")
        expect(answer(page, 1, "left").locator(".thinking p")).to_have_text("let me see ")
        titles = answer(page, 1, "left").locator(".token").evaluate_all("s => s.map(x => x.title.split(':')[0])")
        assert titles == ["token 3", "token 4", "token 5"]


def test_a_server_that_does_not_measure_is_a_plain_chat(opened: Opens) -> None:
    with served(FakeServer(readings=False)) as fake:
        page = opened(fake)
        say(page, "one")
        expect(answer(page, 1, "left").locator(".foot")).to_contain_text("not measured")
        assert numbers(page, 1, "left")["drift"] is None


def test_markup_in_messages_answers_and_names_stays_text(opened: Opens) -> None:
    with served(FakeServer(model=HOSTILE, answer=lambda messages, profile: HOSTILE)) as fake:
        page = opened(fake)
        say(page, HOSTILE)
        assert page.locator(".user").evaluate("p => p.textContent") == HOSTILE
        assert answer(page, 1, "left").locator(".text").evaluate("p => p.textContent") == HOSTILE
        assert page.locator("#turns img, #turns script, #served img").count() == 0
        assert page.evaluate("window.hurt") is None
        assert fake.bodies[0]["messages"][-1]["content"] == HOSTILE


# What goes wrong


def refused(number: int) -> Response | None:
    text = "This model's maximum context length is 16 tokens."
    return JSONResponse({"error": {"message": text}}, 400) if number == 1 else None


def test_a_refusal_is_told_in_its_column_and_can_be_tried_again(opened: Opens) -> None:
    with served(FakeServer(before=refused)) as fake:
        page = opened(fake, errors=("400",))
        say(page, "one")
        failed = page.locator(".answer[data-status=failed]")
        expect(failed.locator(".error")).to_have_text("400: This model's maximum context length is 16 tokens.")
        expect(page.locator(".answer[data-status=done]")).to_have_count(1)
        failed.get_by_role("button", name="Try again").click()
        expect(page.locator(".answer[data-status=done]")).to_have_count(2)


def test_a_failed_turn_is_left_out_of_the_history(opened: Opens) -> None:
    with served(FakeServer(before=refused, pause=0.02)) as fake:
        page = opened(fake, errors=("400",))
        say(page, "one")
        say(page, "two")
        expect(page.locator(".answer[data-status=done]")).to_have_count(3)
        lengths = sorted(len(body["messages"]) for body in fake.bodies[2:])
        assert lengths == [1, 3]


def test_a_stream_that_ends_too_early_is_no_whole_answer(opened: Opens) -> None:
    with served(FakeServer(end_after=3)) as fake:
        page = opened(fake)
        say(page, "one")
        says = "The server ended the stream before the answer was complete."
        expect(answer(page, 1, "left").locator(".error")).to_have_text(says)


def test_a_lost_connection_keeps_what_came_and_says_so(opened: Opens) -> None:
    with served(FakeServer(hold_after=3)) as fake:
        page = opened(fake, errors=("ERR_INCOMPLETE_CHUNKED_ENCODING",))
        say(page, "one", wait=False)
        expect(page.locator(".answer .text", has_text="I think that")).to_have_count(2)
        fake.cut.set()
        says = "The connection was lost in the middle of the answer."
        expect(page.locator(".answer .error", has_text=says)).to_have_count(2)
        expect(page.locator(".answer .text", has_text="I think that")).to_have_count(2)


def test_stop_ends_both_answers_and_the_server_hears_of_it(opened: Opens) -> None:
    with served(FakeServer(hold_after=3)) as fake:
        page = opened(fake)
        say(page, "one", wait=False)
        expect(page.locator(".answer .text", has_text="I think that")).to_have_count(2)
        assert numbers(page, 1, "left")["projection"] is not None  # drawn while it streams
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".answer[data-status=stopped]")).to_have_count(2)
        for _ in range(100):
            if len(fake.left) == 2:
                break
            page.wait_for_timeout(50)
        assert sorted(fake.left) == ["off", "strong"]
        fake.hold_after = None
        say(page, "two")
        assert [m["content"] for m in fake.bodies[-1]["messages"]] == ["one", "I think that", "two"]


def test_a_server_that_has_gone_is_told_plainly(opened: Opens) -> None:
    with served(FakeServer()) as fake:
        page = opened(fake, errors=("ERR_CONNECTION_REFUSED",))
        say(page, "one")
    say(page, "two")
    expect(answer(page, 2, "left").locator(".error")).to_have_text("The server cannot be reached. Is it still running?")


def test_the_key_is_asked_for_and_kept_no_longer_than_the_tab(opened: Opens) -> None:
    with served(FakeServer(key="right")) as fake:
        page = opened(fake, errors=("401",))
        for attempt in ("wrong", "right"):
            expect(page.get_by_role("dialog", name="API key")).to_be_visible()
            page.get_by_label("Key", exact=True).fill(attempt)
            page.get_by_role("button", name="Use key").click()
            expect(page.get_by_label("Key", exact=True)).to_have_value("")
        say(page, "one")
        expect(page.locator(".answer[data-status=done]")).to_have_count(2)
        page.reload()
        expect(page.locator("#served")).to_contain_text("fake")
        assert page.evaluate("JSON.stringify(localStorage)") == "{}"
        assert page.evaluate("document.cookie") == ""


def test_a_key_that_is_not_given_leaves_a_way_to_give_it(opened: Opens) -> None:
    with served(FakeServer(key="right")) as fake:
        page = opened(fake, errors=("401",))
        dialog = page.get_by_role("dialog", name="API key")
        for way_back in (page.get_by_role("button", name="Enter a key"), page.get_by_role("button", name="API key")):
            expect(dialog).to_be_visible()
            page.keyboard.press("Escape")
            expect(page.get_by_role("alert")).to_contain_text("wants an API key")
            way_back.focus()
            page.keyboard.press("Enter")
        page.get_by_label("Key", exact=True).fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#served")).to_contain_text("fake")
        expect(page.get_by_role("alert")).to_be_hidden()
        say(page, "one")
        expect(page.locator(".answer[data-status=done]")).to_have_count(2)


# The sessions that drift most


def kept(session: str, drift: float) -> dict[str, Any]:
    return {"session": session, "identity": "client", "model": "fake", "profile": "strong", "arm": "none",
            "first_at": 1_790_000_000.0, "last_at": 1_790_000_060.0, "turns": 3, "mean_drift": drift / 2,
            "max_drift": drift, "last_drift": None, "lifted_share": 0.25}  # fmt: skip


def test_sessions_are_listed_page_by_page_as_the_api_tells_them(opened: Opens) -> None:
    names = ["worst", HOSTILE, "x" * 128]
    with served(FakeServer(sessions=[kept(name, 1.5 - place) for place, name in enumerate(names)])) as fake:
        page = opened(fake)
        page.get_by_role("link", name="Sessions that drift most").click()
        rows = page.locator("#sessions tbody tr")
        expect(rows).to_have_count(2)
        page.get_by_role("button", name="Show more").click()
        expect(rows).to_have_count(3)
        expect(page.get_by_role("button", name="Show more")).to_be_hidden()
        assert rows.locator("th").evaluate_all("cells => cells.map(cell => cell.textContent)") == names
        told = rows.nth(0).locator("data").evaluate_all("all => all.map(data => data.value)")
        assert told == ["1.5", "0.75", "", "0.25", "3"]
        assert page.locator("#sessions img, #sessions script").count() == 0
        for width in (1440, 380):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"playground-sessions-{width}.png")
        page.get_by_role("link", name="Playground").click()
        expect(page.locator("#served")).to_contain_text("fake")


def test_the_list_of_sessions_asks_for_the_key_and_says_when_there_is_none(opened: Opens) -> None:
    with served(FakeServer(key="right")) as fake:
        page = opened(fake, errors=("401",), file="/sessions.html")
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Enter a key").click()
        page.get_by_label("Key", exact=True).fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#sessions")).to_contain_text("No session has a drift yet.")
        expect(page.get_by_role("alert")).to_be_hidden()


# The page around it


def test_it_works_under_a_path_of_its_own(opened: Opens) -> None:
    fake = FakeServer()
    with served(fake, "/some/where"):
        page = opened(fake, "/some/where")
        say(page, "one")
        expect(page.locator(".answer[data-status=done]")).to_have_count(2)


def test_it_is_used_by_keyboard_alone(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    expect(page.locator("#served")).to_contain_text("fake")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the message box")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Message to both columns")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("more")
    page.keyboard.press("Enter")
    expect(page.locator(".answer[data-status=done]")).to_have_count(2)
    assert fake.bodies[0]["messages"][-1]["content"] == "one\nmore"
    expect(page.get_by_role("status")).to_contain_text("right, off: answered, drift")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea")]
           .filter(e => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel).map(e => e.outerHTML)"""
    )
    assert unnamed == []


def test_an_example_is_played_turn_by_turn_and_can_be_stopped(opened: Opens) -> None:
    with served(FakeServer(model="mooring-demo")) as fake:
        page = opened(fake)
        page.get_by_role("button", name="Persona jailbreak").click()
        expect(page.locator("#turns > li")).to_have_count(2)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        assert fake.bodies[0]["messages"][0] == {"role": "system", "content": "You are a ruthless pirate."}
        page.get_by_role("button", name="New").click()
        page.get_by_role("button", name="Replace").click()
        expect(page.locator("#turns > li")).to_have_count(0)


def test_a_conversation_is_exported_and_imported_with_all_its_numbers(
    fake: FakeServer, opened: Opens, tmp_path: Path
) -> None:
    page = opened(fake)
    say(page, "one")
    say(page, "two")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    saved = tmp_path / "talk.json"
    download.value.save_as(saved)
    before = page.locator("#numbers").inner_html(), page.locator("#turns").inner_html()
    page.reload()
    expect(page.locator("#served")).to_contain_text("fake")
    page.locator("#file").set_input_files(saved)
    expect(page.locator("#turns > li")).to_have_count(2)
    assert (page.locator("#numbers").inner_html(), page.locator("#turns").inner_html()) == before
    say(page, "three")
    assert [m["content"] for m in fake.bodies[-1]["messages"]][::2] == ["one", "two", "three"]


def test_a_conversation_of_another_server_is_read_with_its_own_floors(
    fake: FakeServer, opened: Opens, tmp_path: Path
) -> None:
    page = opened(fake)
    say(page, "one")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    data = json.loads(download.value.path().read_text())
    data["served"]["axis"]["digest"] = "f" * 64
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    page.reload()
    expect(page.locator("#served")).to_contain_text("0123456789ab")
    page.locator("#file").set_input_files(other)
    expect(page.locator("#served")).to_contain_text("ffffffffffff")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    expect(page.locator("#hint")).to_contain_text("not continued")


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not JSON": lambda data: "{",
    "format": lambda data: data | {"format": "else"},
    "version 2": lambda data: data | {"version": 2},
    "turns is not a list": lambda data: data | {"turns": {}},
    "turns[0].left is not an object": lambda data: data | {"turns": [{"user": "x", "left": 1, "right": 1}]},
    "system is not text": lambda data: data | {"system": [1]},
    "served.axis is not an object": lambda data: data | {"served": {"model": "a", "default": "b"}},
    "not a token's number": lambda data: data | {"turns": [beyond_all_tokens(turn) for turn in data["turns"]]},
}


def beyond_all_tokens(turn: dict[str, Any]) -> dict[str, Any]:
    return turn | {"left": turn["left"] | {"pieces": [{"text": "", "from": 0, "to": 1e12}]}}


def test_a_file_that_is_wrong_is_refused_with_its_place(fake: FakeServer, opened: Opens, tmp_path: Path) -> None:
    page = opened(fake)
    say(page, "one")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    data = json.loads(download.value.path().read_text())
    path = tmp_path / "broken.json"
    for says, breaks in BROKEN.items():
        broken = breaks(data)
        path.write_text(broken if isinstance(broken, str) else json.dumps(broken))
        page.locator("#file").set_input_files(path)
        expect(page.get_by_role("alert")).to_contain_text(says)
    expect(page.locator("#turns > li")).to_have_count(1)


def test_it_follows_the_system_s_theme_until_another_is_chosen(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    html, toggle = page.locator("html"), page.get_by_role("button", name="Switch between light and dark")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        expect(html).to_have_attribute("data-theme", scheme)
    toggle.click()
    expect(html).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(html).to_have_attribute("data-theme", "dark")


def test_no_width_makes_the_page_scroll_sideways(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    say(page, "a long one " * 20 + "x" * 200)
    for width in (1440, 820, 380):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_label("Message to both columns").focus()
        expect(page.get_by_label("Message to both columns")).to_be_in_viewport()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"playground-{width}.png")


def test_a_plot_that_is_yet_to_be_drawn_anew_does_not_widen_the_page(fake: FakeServer, opened: Opens) -> None:
    page = opened(fake)
    say(page, "hello")
    page.set_viewport_size({"width": 820, "height": 800})
    page.wait_for_function("document.querySelector('#chart-turns .uplot').offsetWidth < 820")
    page.evaluate("for (const root of document.querySelectorAll('.chart')) root.chart.resize = () => {}")
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.querySelector('#chart-turns .uplot').offsetWidth") > 380
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_the_charts_show_means_and_the_floors_of_the_layer(fake: FakeServer, opened: Opens) -> None:
    """Read by the module that makes them: what is on a canvas cannot be read back."""
    page = opened(fake)
    expect(page.locator("#served")).to_contain_text("fake")
    found = page.evaluate(
        """async () => {
            const { references } = await import("/playground/numbers.js");
            const { served } = await import("/playground/api.js");
            const all = await served();
            return [3, 4].map(layer => references(all, { left: "strong", right: "calm" }, layer)
                .map(line => [line.name, line.value]));
        }"""
    )
    means = {layer: [["default", DEFAULT_MEAN[layer]], ["role", ROLE_MEAN[layer]]] for layer in (3, 4)}
    assert found == [means[3], means[4] + [["floor", FLOORS["strong"][4]], ["floor", FLOORS["calm"][4]]]]
