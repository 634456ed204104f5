"""A server's own account of its turns: its replies, /metrics and what a collector of traces gets say the same.

One server of the demo, with a collector of traces beside it that this file runs.
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from servers import Server

pytestmark = [pytest.mark.engine, pytest.mark.verify]

PIRATE = [{"role": "system", "content": "You are a ruthless pirate."}, {"role": "user", "content": "Who are you?"}]
PLAIN = [{"role": "user", "content": "Who are you?"}]
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
PATIENCE = 20.0


class Collector:
    """An OTLP collector over HTTP that keeps every span it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def turns(self, trace: str) -> list[Span]:
        return [s for s in self.spans if s.name == "mooring.turn" and s.trace_id.hex() == trace]

    def stop(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.stop()


@pytest.fixture(scope="module", params=[1, 2])
def server(
    request: pytest.FixtureRequest, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    arguments = ["demo", "--api-server-count", str(request.param), "--otlp-traces-endpoint", collector.url,
                 "--session-alias", "header:X-Chat", "--session-alias", "metadata.session_id"]  # fmt: skip
    environment = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "100",
                   "VLLM_ENABLE_RESPONSES_API_STORE": "1"}  # fmt: skip
    with Server(arguments, tmp_path_factory.mktemp("turns") / "log", **environment) as running:
        yield running.wait_until_ready()


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(server: Server) -> Samples:
    """Every sample of ours in /metrics."""
    found: Samples = {}
    for line in httpx.get(f"{server.base}/metrics").raise_for_status().text.splitlines():
        if line.startswith("mooring_"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0], frozenset(LABEL.findall(name))] = float(value)
    return found


def total(of: Samples, name: str, **labels: str) -> float:
    return sum(value for (n, known), value in of.items() if n == f"mooring_{name}" and set(labels.items()) <= known)


class Grown:
    """By how much samples have grown since it was made."""

    def __init__(self, server: Server) -> None:
        self._server, self._before = server, samples(server)

    def wait(self, turns: int) -> "Grown":
        """Until that many turns are counted: a client has its answer a moment before."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self._now = samples(self._server)
            if self("turns_total") >= turns:
                break
            time.sleep(0.05)
        assert self("turns_total") == turns
        return self

    def __call__(self, name: str, **labels: str) -> float:
        return total(self._now, name, **labels) - total(self._before, name, **labels)


def ask(server: Server, path: str = "chat/completions", headers: Mapping[str, str] | None = None, **body: Any) -> Any:
    """The `mooring` object of a reply, streamed or not."""
    given = {"model": "demo", "max_tokens": 12} | body
    with httpx.Client(timeout=120) as client:  # a connection of its own, which any API server may take
        answer = client.post(f"{server.base}/v1/{path}", json=given, headers=dict(headers or {}))
    assert answer.status_code == 200, answer.text
    if not given.get("stream"):
        return answer.json()["mooring"]
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    (told,) = [f.get("mooring") or f.get("response", {}).get("mooring") for f in frames if '"mooring"' in json.dumps(f)]
    return told


def test_what_replies_say_is_what_is_counted(server: Server) -> None:
    """Every endpoint, whole and streamed, several choices, both profiles, three depths."""
    grown = Grown(server)
    told: list[Any] = []
    for profile in ("strong", "off"):
        xargs = {"vllm_xargs": {"mooring_profile": profile}}
        for stream in (False, True):
            told.append(ask(server, messages=PIRATE, stream=stream, **xargs))
            told.append(ask(server, messages=[*PIRATE, {"role": "assistant", "content": "Arr"}, *PLAIN], stream=stream,
                            n=2, temperature=1.0, **xargs))  # fmt: skip
            told.append(ask(server, "completions", prompt="The sea", stream=stream, **xargs))
            told.append(ask(server, "responses", input="Who are you?", stream=stream, max_output_tokens=12, **xargs))
            told.append(ask(server, "messages", {"X-Mooring-Profile": profile}, messages=PLAIN, stream=stream))
    flat = [each for some in told for each in (some if isinstance(some, list) else [some])]
    grown.wait(len(flat))
    assert len(flat) == 24 and all(each["complete"] for each in flat)
    for profile in ("strong", "off"):
        of = [each for each in flat if each["profile"] == profile]
        assert grown("turns_total", profile=profile) == len(of)
        measured = sum(each["measured_tokens"] for each in of)
        lifted = sum(each["lifted_share"] * each["measured_tokens"] for each in of)
        assert grown("tokens_total", profile=profile) == measured
        assert grown("tokens_total", profile=profile, state="lifted") == pytest.approx(lifted, abs=1e-3)
        lift = sum(each["mean_lift"] * each["measured_tokens"] for each in of)
        assert grown("lift_total", profile=profile) == pytest.approx(lift, rel=1e-4, abs=1e-9)
        assert grown("lifted_share_sum", profile=profile) == pytest.approx(sum(e["lifted_share"] for e in of), rel=1e-4)
        assert grown("projection_count", profile=profile) == len(of)
        for depth, turn in (("1", 1), ("2", 2), ("none", None)):
            drifts = [each["drift"] for each in of if each["turn"] == turn]
            labels = {"profile": profile, "depth": depth}
            assert grown("drift_count", **labels) == len(drifts) > 0
            mean = grown("drift_positive_total", **labels) - grown("drift_negative_total", **labels)
            assert mean == pytest.approx(sum(drifts), rel=1e-4, abs=1e-4)
    assert grown("tokens_total", profile="off", state="lifted") == 0 < grown("tokens_total", state="lifted")
    assert grown("sessions_started_total") == sum(each["turn"] == 1 for each in flat)


def test_a_plain_clients_turns_are_one_session_by_whatever_endpoint_it_goes_on(server: Server) -> None:
    messages: list[dict[str, Any]] = list(PIRATE)
    seen = []
    for stream, path in (
        (False, "chat/completions"),
        (True, "chat/completions"),
        (False, "messages"),
        (True, "messages"),
    ):
        body: dict[str, Any] = {"model": "demo", "max_tokens": 16, "stream": stream}
        if path == "messages":
            body |= {"system": messages[0]["content"], "messages": messages[1:]}
        else:
            body |= {"messages": messages}
        said, told = answer(server, path, body)
        seen.append((told["session"], told["turn"]))
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
    assert seen == [(seen[0][0], turn) for turn in (1, 2, 3, 4)] and seen[0][0].startswith("conv-")
    messages[1]["content"] += " Say."
    assert ask(server, messages=messages)["session"] != seen[0][0], "another opening is another conversation"


def answer(server: Server, path: str, body: dict[str, Any]) -> tuple[str, Any]:
    """(what the reply says as a client reads it, its `mooring` object)."""
    reply = httpx.post(f"{server.base}/v1/{path}", json=body, timeout=120).raise_for_status()
    if not body["stream"]:
        found = reply.json()
        text = found["choices"][0]["message"]["content"] if "choices" in found else found["content"][0]["text"]
        return text, found["mooring"]
    frames = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    deltas = [f["choices"][0]["delta"] for f in frames if f.get("choices")]
    deltas += [f["delta"] for f in frames if f.get("type") == "content_block_delta"]
    text = "".join(delta.get("content") or delta.get("text") or "" for delta in deltas)
    return text, next(frame["mooring"] for frame in frames if "mooring" in frame)


def test_a_response_that_is_named_instead_of_said_again_is_gone_on_from(server: Server) -> None:
    told: list[Any] = []
    named: dict[str, str] = {}
    with httpx.Client(timeout=120) as client:  # one connection: vLLM keeps responses in one process
        for question in ("Who are you?", "And then?", "And then?"):
            body = {"model": "demo", "input": question, "max_output_tokens": 12} | named
            reply = client.post(f"{server.base}/v1/responses", json=body).raise_for_status().json()
            named = {"previous_response_id": reply["id"]}
            told.append(reply["mooring"])
    assert [each["turn"] for each in told] == [1, 2, 3] and len({each["session"] for each in told}) == 1


def test_choices_of_a_first_turn_are_sessions_of_their_own(server: Server) -> None:
    told = ask(server, messages=PIRATE, n=4, temperature=1.5, max_tokens=20, seed=7)
    assert len({each["session"] for each in told}) > 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": PLAIN}),
        ("completions", {"prompt": "The sea"}),
        ("responses", {"input": "hi", "max_output_tokens": 8}),
        ("messages", {"messages": PLAIN}),
    ],
)
def test_a_session_has_the_name_its_client_gives_it(server: Server, path: str, body: dict[str, Any]) -> None:
    assert ask(server, path, {"X-Session-ID": "by header"}, **body)["session"] == "by header"
    assert ask(server, path, {"x-chat": "by alias"}, **body)["session"] == "by alias"
    assert ask(server, path, {"X-Chat": "alias", "X-Session-ID": "vllm"}, **body)["session"] == "vllm"
    assert ask(server, path, **body, vllm_xargs={"session_id": "by xargs"})["session"] == "by xargs"
    named = ask(server, path, **body, session_id="by body", metadata={"session_id": "by metadata"})["session"]
    aliased = ask(server, path, **body, metadata={"session_id": "by metadata"})["session"]
    if path == "messages":  # vLLM drops both members there
        assert named == aliased and named.startswith("conv-")
    else:
        assert (named, aliased) == ("by body", "by metadata")
    assert ask(server, path, {"Helicone-Session-Id": "not named"}, **body)["session"] != "not named"


HOSTILE = ["x" * 1_000_000, "a\x00b", "line\nbreak\u2028", "\x1b[2J", "\u202egnp", "é" * 200]
KEPT = ["'; DROP TABLE turns; --", '<script>alert("x")</script>', "../../etc/passwd", "{{7*7}}", "x" * 128, "船"]


def test_odd_and_hostile_ids_are_answered_and_never_counted_by(server: Server) -> None:
    for session in HOSTILE:
        found = ask(server, messages=PLAIN, session_id=session, max_tokens=2)["session"]
        assert re.fullmatch("sha256:[0-9a-f]{64}", found), repr(session[:20])
    for session in KEPT:
        assert ask(server, messages=PLAIN, metadata={"session_id": session}, max_tokens=2)["session"] == session
    shown = str(list(samples(server)))
    assert not [word for word in ("DROP", "script", "sha256", "conv-", "by alias") if word in shown]
    assert {key for name, labels in samples(server) for key, _ in labels} <= {
        "model_name", "profile", "arm", "state", "depth", "le", "axis", "layers", "floors", "positions", "default",
        "sink",
    }  # fmt: skip


def test_clients_that_hang_up_are_counted_as_far_as_they_came(server: Server, collector: Collector) -> None:
    """A busy engine of two cores may send a stream in one piece, which is then whole before its client hangs up."""
    grown, trace, asked, gone = Grown(server), secrets.token_hex(16), 0, 0
    while gone < 3 and asked < 12:
        hang_up(server, trace)
        asked += 1
        ended = [attributes(span.attributes) for span in wait_for(collector, trace, asked)]
        gone = sum(not each["mooring.finished"] for each in ended)
    assert gone == 3
    assert {each["gen_ai.response.id"][:9] for each in ended} == {"chatcmpl-"}
    grown.wait(asked)
    assert grown("drift_count", depth="1") == asked
    assert 3 * 10 < grown("tokens_total") < 3 * (ANSWER - 1) + (asked - 3) * ANSWER
    with pytest.raises(httpx.ReadTimeout):  # of a whole answer, before it is there
        httpx.post(f"{server.base}/v1/chat/completions", json=LONG, timeout=0.5)
    grown.wait(asked + 1)
    assert grown("drift_count", depth="1") == asked + 1


ANSWER = 1500
LONG = {"model": "demo", "messages": PIRATE, "max_tokens": ANSWER, "ignore_eos": True}


def hang_up(server: Server, trace: str) -> None:
    """In the middle of a stream, which has come so far that it is measured."""
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=LONG | {"stream": True}, headers=headers,
                      timeout=60) as response:  # fmt: skip
        lines = response.iter_lines()
        for _ in range(40):
            next(lines)


def test_the_self_test_and_every_profile_are_told(server: Server) -> None:
    found = samples(server)
    assert total(found, "selftest_ok", model_name="demo") == 1
    told = [dict(labels) for name, labels in found if name == "mooring_profile_info"]
    served = httpx.get(f"{server.base}/v1/mooring/profiles").json()["profiles"]
    assert {each["profile"] for each in told} == {each["name"] for each in served} and len(told) == len(served)
    for each in served:
        (labels,) = [known for known in told if known["profile"] == each["name"]]
        assert each["axis"].startswith(labels["axis"]) and len(labels["axis"]) == 12
        assert labels["default"] == str(each["default"]).lower() and labels["model_name"] == "demo"
        floors = [float(floor) for floor in labels["floors"].split(",") if floor]
        assert floors == pytest.approx([remap["floor"] for remap in each["layers"].values()], rel=1e-5)
        assert labels["layers"] == ",".join(each["layers"])


def attributes(of: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of}


def wait_for(collector: Collector, trace: str, count: int) -> list[Span]:
    deadline = time.monotonic() + PATIENCE
    while len(collector.turns(trace)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    found = collector.turns(trace)
    assert len(found) == count
    return found


def test_a_trace_holds_every_choice_with_its_drift(server: Server, collector: Collector) -> None:
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "X-Session-ID": "traced"}
    told = ask(server, headers=headers, messages=PIRATE, n=2, temperature=1.0, stream=True)
    spans = wait_for(collector, trace, 2)
    for each, span in zip(told, sorted(spans, key=lambda s: attributes(s.attributes)["mooring.choice"]), strict=True):
        known = attributes(span.attributes)
        assert span.parent_span_id.hex() == "b7ad6b7169203331"
        assert 0 < span.start_time_unix_nano < span.end_time_unix_nano
        assert known["gen_ai.conversation.id"] == "traced" and known["mooring.turn"] == 1
        (event,) = span.events
        result = attributes(event.attributes)
        assert event.name == "gen_ai.evaluation.result" and result["gen_ai.evaluation.name"] == "mooring.drift"
        assert result["gen_ai.evaluation.score.value"] == pytest.approx(each["drift"], rel=1e-5)
        assert result["gen_ai.response.id"] == known["gen_ai.response.id"]
    assert any(span.name == "llm_request" and span.trace_id.hex() == trace for span in collector.spans), "vLLM's own"
