"""Spans of answers, as an exporter in memory gets them."""

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.datastructures import Headers

from mooring_server.record import Record
from mooring_server.tracing import TurnSpans, label
from mooring_server.turn import CURRENT, Turn

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def record(**given: Any) -> Record:
    known: dict[str, Any] = {
        "at": 2e9, "response": "chatcmpl-1", "choice": 0, "route": "chat", "model": "m", "profile": "strong",
        "arm": "none", "session": "s", "identity": "client", "turn": 3, "node": "", "parent": "", "tokens": 5,
        "measured_tokens": 4, "lifted_tokens": 1, "projection": 1.0, "drift": 0.5, "mean_lift": 0.1, "complete": True,
        "finished": True, "layers": {},
    }  # fmt: skip
    return Record(**(known | given))


def span_of(told: Record, headers: Mapping[str, str]) -> list[ReadableSpan]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    token = CURRENT.set(Turn(None, Headers(headers), None))
    try:
        TurnSpans(provider.get_tracer("mooring")).take(told)
    finally:
        CURRENT.reset(token)
    return list(exporter.get_finished_spans())


def test_an_answer_is_a_child_of_its_clients_span_with_its_drift_as_an_evaluation() -> None:
    (span,) = span_of(record(), {"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert span.name == "mooring.turn" and span.parent is not None and span.attributes is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert span.end_time == 2_000_000_000_000_000_000 and (span.start_time or 0) < span.end_time
    assert span.attributes["gen_ai.conversation.id"] == "s" and span.attributes["mooring.turn"] == 3
    (event,) = span.events
    assert event.name == "gen_ai.evaluation.result"
    assert dict(event.attributes or {}) == {
        "gen_ai.evaluation.name": "mooring.drift", "gen_ai.evaluation.score.value": 0.5,
        "gen_ai.evaluation.score.label": "between", "gen_ai.response.id": "chatcmpl-1",
    }  # fmt: skip


def test_without_a_reading_a_session_or_a_turn_nothing_is_said_of_them() -> None:
    (span,) = span_of(record(drift=None, session="", turn=None, route="completions"), {})
    assert not span.events and span.parent is None and span.attributes is not None
    assert not {"gen_ai.conversation.id", "mooring.turn"} & set(span.attributes)
    assert span.attributes["gen_ai.operation.name"] == "text_completion"


def test_without_a_trace_of_its_client_a_span_is_joined_with_vllms_by_the_id_of_the_request() -> None:
    from vllm.tracing import SpanAttributes

    (span,) = span_of(record(response="chatcmpl-7"), {})
    assert span.parent is None and span.attributes is not None
    assert span.attributes[SpanAttributes.GEN_AI_REQUEST_ID] == "chatcmpl-7"


def test_a_trace_that_is_not_sampled_stays_so_and_a_broken_one_is_ignored() -> None:
    assert span_of(record(), {"traceparent": f"00-{TRACE}-{SPAN}-00"}) == []
    (span,) = span_of(record(), {"traceparent": "00-what-ever"})
    assert span.parent is None


def test_a_clock_that_steps_back_gives_no_span_that_ends_before_it_begins() -> None:
    (span,) = span_of(record(at=1.0), {})
    assert span.start_time == span.end_time == 1_000_000_000


@pytest.mark.parametrize(("drift", "word"), [(-9, "assistant"), (0.25, "between"), (0.75, "role_play")])
def test_a_label_is_one_of_three_words(drift: float, word: str) -> None:
    assert label(drift) == word
