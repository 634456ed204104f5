"""What Mooring counts for Prometheus; all names are here, and nowhere else.

LABELS are `model_name` (the first served name), `profile` and `arm`; no label ever holds what a client wrote.

Drift and projections are signed, and prometheus_client gives a histogram whose first bucket is negative no `_sum`, or
with several API servers one that is of no use: these histograms are for quantiles and heatmaps. Means come from
counters, as `(rate(mooring_drift_positive_total) - rate(mooring_drift_negative_total)) / rate(mooring_drift_count)`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from mooring_hooks.table import Settings, SlotTable
from mooring_server.record import Record

LABELS: Final = ("model_name", "profile", "arm")
DEPTHS: Final = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9-16": 16}
"""Label -> the last turn it holds; later ones are "17+", and "none" is an answer to no conversation."""
DRIFT_BUCKETS: Final = (-2, -1, -0.5, -0.25, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 2, 3)
SHARE_BUCKETS: Final = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
GAPS: Final = (-1, -0.5, -0.25, 0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.125, 1.25, 1.5, 2)
"""Bounds of the projection's buckets, from the role mean (0) to the default mean (1)."""
DECADES: Final = tuple(sign * 10.0**n for sign in (-1, 1) for n in range(-1, 5))
"""The same where the axis has no means."""

READINGS_LOST: Final = Counter(
    "mooring_readings_lost", "Answers that went out before all of their readings had come (complete: false)"
)
FRAMES_MALFORMED: Final = Counter("mooring_frames_malformed", "Messages on the readings socket that were no frame")
FRAMES_DROPPED: Final = Counter("mooring_frames_dropped", "Frames that a worker could not send, by its own count")

TURNS: Final = Counter("mooring_turns", "Answers that ended, each choice of a reply by itself", LABELS)
TOKENS: Final = Counter("mooring_tokens", "Measured tokens, lifted at one layer or more, or untouched",
                        (*LABELS, "state"))  # fmt: skip
DRIFT: Final = Histogram(
    "mooring_drift", "Drift per answer: 0 is the default Assistant, 1 the mean role-play. Has no usable _sum",
    (*LABELS, "depth"), buckets=DRIFT_BUCKETS,
)  # fmt: skip
DRIFT_POSITIVE: Final = Counter("mooring_drift_positive", "Sum of max(drift, 0) over answers", (*LABELS, "depth"))
DRIFT_NEGATIVE: Final = Counter("mooring_drift_negative", "Sum of max(-drift, 0) over answers", (*LABELS, "depth"))
LIFT: Final = Counter("mooring_lift", "Sum over measured tokens of their mean lift, in units of the projection", LABELS)
LIFTED_SHARE: Final = Histogram(
    "mooring_lifted_share", "Share of an answer's tokens that the cap lifted. Near 1 the persona leans on the floor",
    LABELS, buckets=SHARE_BUCKETS,
)  # fmt: skip
SESSIONS_STARTED: Final = Counter("mooring_sessions_started", "Requests whose answer is the first of its conversation",
                                  LABELS)  # fmt: skip
SINK_ERRORS: Final = Counter("mooring_sink_errors", "Answers of which a part of the server could take no note",
                             ("sink",))  # fmt: skip
SELFTEST_OK: Final = Gauge("mooring_selftest_ok", "1 once the self-test has shown that every profile does what it says",
                           ("model_name",), multiprocess_mode="mostrecent")  # fmt: skip
PROFILE_INFO: Final = Gauge(
    "mooring_profile_info", "1 for each profile; axis is the beginning of its digest, floors are per capped layer",
    ("model_name", "profile", "axis", "layers", "floors", "positions", "default"), multiprocess_mode="mostrecent",
)  # fmt: skip
HISTORY_ROWS: Final = Counter("mooring_history_rows", "Rows of the history that the database has acknowledged")
HISTORY_ROWS_LOST: Final = Counter(
    "mooring_history_rows_lost",
    "Rows dropped: the queue was full, the process ended first, or no database could hold them",
)
HISTORY_FAILURES: Final = Counter("mooring_history_failures", "Writes to the history that failed; they are tried again")
HISTORY_QUEUE: Final = Gauge("mooring_history_queue", "Rows that wait for the database", multiprocess_mode="livesum")
EXPERIMENT_SESSIONS: Final = Gauge("mooring_experiment_sessions", "Sessions in the history that began in an arm",
                                   ("model_name", "arm"), multiprocess_mode="mostrecent")  # fmt: skip
EXPERIMENT_EXPECTED: Final = Gauge("mooring_experiment_expected_sessions", "The same as the weights would have it",
                                   ("model_name", "arm"), multiprocess_mode="mostrecent")  # fmt: skip
EXPERIMENT_P: Final = Gauge(
    "mooring_experiment_sample_ratio_p", "How likely chance splits the sessions at least as far from the weights",
    ("model_name",), multiprocess_mode="mostrecent",
)  # fmt: skip


class _OfProfile(NamedTuple):
    """The counters of one profile of one model, found once: looking them up by label is most of their cost."""

    turns: Counter
    lifted: Counter
    untouched: Counter
    projection: Histogram
    lift: Counter
    lifted_share: Histogram
    started: Counter


class _OfDepth(NamedTuple):
    drift: Histogram
    positive: Counter
    negative: Counter


class TurnMetrics:
    """The sink of these numbers; one a process, since it registers the histogram whose buckets the axis sets."""

    def __init__(self, table: SlotTable, registry: CollectorRegistry = REGISTRY) -> None:
        self._projection = Histogram(
            "mooring_projection",
            "Mean projection per answer at the monitored layer, before its cap. Has no usable _sum",
            LABELS, buckets=projection_buckets(table), registry=registry,
        )  # fmt: skip
        self._profiles = cache(self._of_profile)

    def take(self, record: Record) -> None:
        """Count one answer."""
        labels = (record.model, record.profile, record.arm)
        of_profile = self._profiles(*labels)
        of_profile.turns.inc()
        if record.turn == 1 and record.choice == 0:
            of_profile.started.inc()
        if record.projection is not None:
            of_profile.lifted.inc(record.lifted_tokens)
            of_profile.untouched.inc(record.measured_tokens - record.lifted_tokens)
            of_profile.projection.observe(record.projection)
            of_profile.lifted_share.observe(record.lifted_tokens / record.measured_tokens)
            of_profile.lift.inc(max(record.mean_lift or 0.0, 0.0) * record.measured_tokens)
        if record.drift is not None:
            of_depth = _of_depth(*labels, depth(record.turn))
            of_depth.drift.observe(record.drift)
            (of_depth.positive if record.drift > 0 else of_depth.negative).inc(abs(record.drift))

    def _of_profile(self, *labels: str) -> _OfProfile:
        return _OfProfile(
            turns=TURNS.labels(*labels),
            lifted=TOKENS.labels(*labels, "lifted"),
            untouched=TOKENS.labels(*labels, "untouched"),
            projection=self._projection.labels(*labels),
            lift=LIFT.labels(*labels),
            lifted_share=LIFTED_SHARE.labels(*labels),
            started=SESSIONS_STARTED.labels(*labels),
        )


@cache
def _of_depth(*labels: str) -> _OfDepth:
    return _OfDepth(DRIFT.labels(*labels), DRIFT_POSITIVE.labels(*labels), DRIFT_NEGATIVE.labels(*labels))


def depth(turn: int | None) -> str:
    """The label of a turn's number."""
    if turn is None:
        return "none"
    return next((label for label, last in DEPTHS.items() if turn <= last), "17+")


def projection_buckets(table: SlotTable) -> tuple[float, ...]:
    """Rising bounds around what the served axis says of default and role-playing answers."""
    facts, at = table.axis_facts[int(table.axis_of[0])], table.layers.index(table.monitored_layer)
    if facts.default_mean is None or facts.role_mean is None:
        return tuple(sorted((*DECADES, 0.0)))
    role, gap = facts.role_mean[at], facts.default_mean[at] - facts.role_mean[at]
    digits = 3 - math.floor(math.log10(gap))  # an axis has its default mean above its role mean
    return tuple(round(role + gap * part, digits) for part in GAPS)


def tell_profiles(settings: Settings, table: SlotTable, model: str) -> None:
    """Set what is known at the start: that the self-test has passed, and every profile in numbers."""
    SELFTEST_OK.labels(model).set(1)
    for slot in range(len(settings.profiles)):
        PROFILE_INFO.labels(**profile_labels(settings, table, slot), model_name=model).set(1)


def tell_split(model: str, observed: Mapping[str, int], expected: Mapping[str, float], p: float | None) -> None:
    """Set how many sessions each arm of the experiment has."""
    for arm, sessions in observed.items():
        EXPERIMENT_SESSIONS.labels(model, arm).set(sessions)
        EXPERIMENT_EXPECTED.labels(model, arm).set(expected[arm])
    if p is not None:
        EXPERIMENT_P.labels(model).set(p)


def profile_labels(settings: Settings, table: SlotTable, slot: int) -> Mapping[str, str]:
    entry = settings.profiles[slot]
    changes = table.changes(slot)
    return {
        "profile": entry.name,
        "axis": table.axis_facts[int(table.axis_of[slot])].digest[:12],
        "layers": ",".join(map(str, changes)),
        "floors": ",".join(map(_floor, changes.values())),
        "positions": entry.positions,
        "default": "true" if entry.name == settings.default else "false",
    }


def _floor(remap: Sequence[Any]) -> str:
    floor = float(remap[2])
    return f"{floor:.6g}" if math.isfinite(floor) else "none"
