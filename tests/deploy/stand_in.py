"""A process with Mooring's real metrics page and steady traffic: `python stand_in.py PORT CAPPED OFF`.

Four times a second it takes CAPPED answers under `strong` and OFF under `off`, through the sink that a server has, so
that means are known. What vLLM would count is declared here by name; tests compare the names with vLLM's own.
"""

import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.profiles import load_profiles
from mooring_hooks.table import Settings, SlotTable, publish, tables_folder
from mooring_server import metrics
from mooring_server.plan import resolve_all
from mooring_server.record import Record

MODEL = "demo"
TICK = 0.25
TOKENS, LIFTED, MEAN_LIFT = 32, 24, 0.5
CAPPED_DRIFT, OFF_DRIFT, OFF_LONG_DRIFT = 0.125, -0.25, 1.0
"""Of turn 1 under `strong`; of turn 1 and of turn 20 under `off`."""

ENGINE = ("model_name", "engine")
BOUNDS = (0.01, 0.1, 1.0)
REQUESTS = Counter("vllm:request_success", "-", (*ENGINE, "finished_reason"))
BETWEEN_TOKENS = Histogram("vllm:inter_token_latency_seconds", "-", ENGINE, buckets=BOUNDS)
FIRST_TOKEN = Histogram("vllm:time_to_first_token_seconds", "-", ENGINE, buckets=BOUNDS)
RUNNING = Gauge("vllm:num_requests_running", "-", ENGINE)
WAITING = Gauge("vllm:num_requests_waiting", "-", ENGINE)

ANSWER = Record(
    at=0.0, response="chatcmpl-1", choice=0, route="chat", model=MODEL, profile="strong", arm="none", session="s",
    identity="client", turn=1, node="", parent="", tokens=TOKENS + 1, measured_tokens=TOKENS, lifted_tokens=LIFTED,
    projection=11.0, drift=CAPPED_DRIFT, mean_lift=MEAN_LIFT, complete=True, finished=True, layers={},
)  # fmt: skip
OFF_ANSWER = replace(ANSWER, profile="off", lifted_tokens=0, mean_lift=0.0, drift=OFF_DRIFT)


def main(port: int, capped: int, off: int) -> None:
    settings, table = served()
    sink = metrics.TurnMetrics(table)
    metrics.tell_profiles(settings, table, MODEL)
    Thread(target=ThreadingHTTPServer(("127.0.0.1", port), Page).serve_forever, daemon=True).start()
    batch = [ANSWER] * capped + [OFF_ANSWER, replace(OFF_ANSWER, turn=20, drift=OFF_LONG_DRIFT)] * off
    while True:
        for record in batch:
            sink.take(record)
            tell_as_vllm()
        time.sleep(TICK)


class Page(BaseHTTPRequestHandler):
    """Plain text whatever is accepted, as on a vLLM server: in OpenMetrics, `vllm:` would turn into `vllm_`."""

    def do_GET(self) -> None:
        page = generate_latest()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def served() -> tuple[Settings, SlotTable]:
    """What `mooring serve demo` caps by."""
    axis = Axis.load(demo.AXIS_FILE)
    file = load_profiles(demo.PROFILES_FILE)
    settings = publish(resolve_all(file, axis), str(file.default))
    return settings, SlotTable.fetch(tables_folder(), settings.table)


def tell_as_vllm() -> None:
    REQUESTS.labels(MODEL, "0", "stop").inc()
    BETWEEN_TOKENS.labels(MODEL, "0").observe(0.05)
    FIRST_TOKEN.labels(MODEL, "0").observe(0.5)
    RUNNING.labels(MODEL, "0").set(1)
    WAITING.labels(MODEL, "0").set(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
