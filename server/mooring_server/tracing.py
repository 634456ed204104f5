"""A span for every answer, where vLLM's tracing is on (--otlp-traces-endpoint), in OpenTelemetry's GenAI words.

    span "mooring.turn"                  from the request's coming to the answer's end, child of its `traceparent`
      gen_ai.conversation.id             the session
      gen_ai.request.id                  the response's id, as in vLLM's own span: by it the two are joined
      gen_ai.response.id, .request.model, mooring.profile, mooring.turn, ...
      event "gen_ai.evaluation.result"   name "mooring.drift", score.value the drift, score.label one of LABELS

vLLM makes a span of its own beside it ("llm_request"), which holds its times; both go where vLLM sends spans. A request
without `traceparent` begins a trace with each of them, so there the id alone joins them.
"""

from typing import Final

from opentelemetry.trace import Tracer, get_tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from mooring_server.record import Record
from mooring_server.turn import CURRENT

EVALUATION: Final = "gen_ai.evaluation.result"
LABELS: Final = {"assistant": 0.25, "between": 0.75}
"""Label of a drift -> where it ends; beyond the last it is "role_play"."""
_PARENT: Final = TraceContextTextMapPropagator()


class TurnSpans:
    """The sink; `tracer` is one of the provider that vLLM has set up."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer or get_tracer("mooring")

    def take(self, record: Record) -> None:
        turn = CURRENT.get()
        assert turn is not None, "records are told while their request is open"
        end = int(record.at * 1e9)
        span = self._tracer.start_span(
            "mooring.turn",
            context=_PARENT.extract(turn.headers),
            start_time=min(turn.began, end),
            attributes=_attributes(record),
        )
        if record.drift is not None:
            span.add_event(EVALUATION, _evaluation(record, record.drift), timestamp=end)
        span.end(end)


def _attributes(record: Record) -> dict[str, AttributeValue]:
    conversation = {"gen_ai.conversation.id": record.session} if record.session else {}
    number = {} if record.turn is None else {"mooring.turn": record.turn}
    return {
        "gen_ai.operation.name": "text_completion" if record.route == "completions" else "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.id": record.response,
        "gen_ai.request.model": record.model,
        "gen_ai.response.id": record.response,
        "gen_ai.usage.output_tokens": record.tokens,
        "mooring.profile": record.profile,
        "mooring.arm": record.arm,
        "mooring.identity": record.identity,
        "mooring.choice": record.choice,
        "mooring.complete": record.complete,
        "mooring.finished": record.finished,
        **conversation,
        **number,
    }


def _evaluation(record: Record, drift: float) -> dict[str, AttributeValue]:
    return {
        "gen_ai.evaluation.name": "mooring.drift",
        "gen_ai.evaluation.score.value": drift,
        "gen_ai.evaluation.score.label": label(drift),
        "gen_ai.response.id": record.response,
    }


def label(drift: float) -> str:
    """A drift in a word."""
    return next((name for name, end in LABELS.items() if drift < end), "role_play")
