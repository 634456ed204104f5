"""What Mooring's Grafana dashboards show. `python deploy/generate.py` writes them to grafana/dashboards/.

mooring-drift     where conversations go, capped and uncapped, and how hard the cap works
mooring-health    whether one may believe that: self-test, profiles, readings, history; and what capping costs
"""

from typing import Final

from panels import EMPTY, Json, choice, dashboard, data_source, heatmap, lines, row, stat, table, text, textbox
from queries import (
    CAPPED,
    OFF,
    PROCESS,
    SERVER,
    TURNS,
    answers_capped,
    answers_on_the_floor,
    mean_drift,
    mean_lift,
    profiles_that_differ,
    quantile,
    rate,
    readings_lost,
    servers_tested,
    time_between_tokens_where_capped,
    tokens_lifted,
)

BY_PROFILE: Final = "model_name, profile, arm"
NAMED: Final = "{{model_name}} {{profile}} {{arm}}"
BY_SERVER: Final = "job, instance"

# fmt: off


def drift() -> Json:
    variables = [
        *_variables(),
        choice("profile", "mooring_profile_info", SERVER),
        choice("arm", "mooring_turns_total", SERVER),
        textbox("mooring_url", "Server's address", "http://localhost:8000"),
    ]
    panels = [*_now(), *_drift(), *_capped_and_uncapped(), *_the_cap(), *_conversations()]
    return dashboard("mooring-drift", "Mooring / Drift",
                     "Where conversations lie on the Assistant axis, and what capping does to them.",
                     variables, panels)


def health() -> Json:
    return dashboard("mooring-health", "Mooring / Health",
                     "Whether Mooring's numbers can be believed, and what capping costs.",
                     _variables(), [*_trust(), *_readings(), *_history(), *_cost()])


def _variables() -> list[Json]:
    return [
        data_source(),
        choice("job", "mooring_profile_info"),
        choice("model_name", "mooring_profile_info", 'job=~"$job"'),
        choice("instance", "mooring_profile_info", 'job=~"$job", model_name=~"$model_name"'),
    ]


def _now() -> list[Json]:
    return [
        row("Now"),
        stat("Mean drift", "Mean drift of all answers: 0 is the default Assistant, 1 the mean role-play.",
             mean_drift(TURNS), warn=0.3, bad=0.5),
        stat("Drift p95", "One answer in twenty drifts further.",
             quantile(0.95, "mooring_drift", TURNS), warn=0.75, bad=1),
        stat("Answers / s", "Answers that ended per second, each choice of a reply by itself.",
             rate("mooring_turns_total", TURNS), "cps"),
        stat("New conversations / s", "Requests whose answer is the first of its conversation.",
             rate("mooring_sessions_started_total", TURNS), "cps"),
        stat("Answers capped", "Share of answers under a profile other than `off`. Follows neither the profile nor the "
             "arm that is chosen above.", answers_capped(), "percentunit"),
        stat("Tokens lifted", "Share of generated tokens that the cap lifted at one layer or more.",
             tokens_lifted(TURNS), "percentunit", warn=0.75, bad=0.9),
    ]


def _drift() -> list[Json]:
    return [
        row("Drift"),
        lines("Mean drift by profile", "Mean drift of the answers under each profile. Where the monitored layer lies "
              "before the first capped one, this is where the model was going; the cap comes after.",
              [(NAMED, mean_drift(TURNS, BY_PROFILE))]),
        lines("Drift quantiles", "Half, one in ten and one in a hundred of the answers drift further. Read from "
              "buckets, so only about right between two bounds.",
              [(f"p{100 * q:.0f}", quantile(q, "mooring_drift", TURNS)) for q in (0.5, 0.9, 0.99)]),
        lines("Mean drift by turn", "Mean drift of the first, second, ... answers of a conversation, by the answers "
              "that a request holds: lines that rise are conversations that leave the Assistant. `none`: no "
              "conversation.", [("turn {{depth}}", mean_drift(TURNS, "depth"))]),
        lines("Answers by turn", "How many answers that is, per second.",
              [("turn {{depth}}", rate("mooring_drift_count", TURNS, "depth"))], "cps", stacked=True),
        heatmap("Drift", "How many answers lay where.", "mooring_drift", TURNS),
        heatmap("Projection", "The same in the residual stream's own units, at the monitored layer, before its cap: "
                "high is the Assistant. Bounds run from the role mean to the default mean of the served axis.",
                "mooring_projection", TURNS),
    ]


def _capped_and_uncapped() -> list[Json]:
    about = "{} all capped profiles together beside that of `off`. They answer different requests: it is a " \
            f"comparison, not an experiment. {EMPTY}of `off` where no request asks for it."
    return [
        row("Capped and uncapped"),
        lines("Mean drift, capped and off", about.format("Mean drift of"),
              [("capped", mean_drift(CAPPED)), ("off", mean_drift(OFF))]),
        lines("Drift p95, capped and off", about.format("The drift that one answer in twenty exceeds, of"),
              [("capped", quantile(0.95, "mooring_drift", CAPPED)), ("off", quantile(0.95, "mooring_drift", OFF))]),
    ]


def _the_cap() -> list[Json]:
    return [
        row("How hard the cap works"),
        lines("Tokens lifted", "Share of generated tokens that were lifted. Near 1, the floor decides and not the "
              "model: see the alert MooringCapSaturated.",
              [(NAMED, tokens_lifted(TURNS, BY_PROFILE))], "percentunit", width=8),
        lines("Mean lift", "What the cap added per generated token, in the units of the projection: mean over the "
              "layers it acts on.", [(NAMED, mean_lift(TURNS, BY_PROFILE))], width=8),
        lines("Answers that lean on the floor", "Share of answers of whose tokens more than 90 % were lifted.",
              [(NAMED, answers_on_the_floor(TURNS, BY_PROFILE))], "percentunit", width=8),
        heatmap("Lifted share per answer", "How many answers had which share of their tokens lifted.",
                "mooring_lifted_share", CAPPED, "percentunit"),
        lines("Tokens", "Measured tokens per second, lifted and untouched.",
              [("{{state}}", rate("mooring_tokens_total", TURNS, "state"))], "cps", stacked=True),
    ]


def _conversations() -> list[Json]:
    return [row("Conversations"), text("Conversations that drift most", SESSIONS)]


SESSIONS: Final = """\
Prometheus holds no conversation: a label per session would be a series per session, and who may see a dashboard may \
not see a person's talk. The server's history has them, behind its API key:
[**the sessions that drift most**](${mooring_url}/playground/sessions.html). The same in a shell, and turn by turn:

```
curl '${mooring_url}/v1/mooring/sessions?order=drift&limit=20' -H "Authorization: Bearer $VLLM_API_KEY"
curl '${mooring_url}/v1/mooring/sessions/ID' -H "Authorization: Bearer $VLLM_API_KEY"
```

[Open the live page](${mooring_url}/playground), which asks for the key itself.
"""


def _trust() -> list[Json]:
    return [
        row("Can it be believed?"),
        stat("Servers", "Servers whose self-test has shown that the cap works. One that fails it does not start: fewer "
             "than you run means that some are away.", servers_tested()),
        stat("Profiles that differ", "Profiles that servers of one model hold in different versions.",
             profiles_that_differ(), bad=1),
        stat("Readings lost", "Share of answers that went out before all of their readings had come.",
             readings_lost(), "percentunit", warn=0.001, bad=0.01),
        stat("Frames dropped / s", "Readings that workers could not send.",
             rate("mooring_frames_dropped_total", PROCESS), "cps", bad=0.001),
        stat("History rows lost / s", "Rows dropped: the queue was full, the process ended first, or no database "
             "could hold them.",
             rate("mooring_history_rows_lost_total", PROCESS), "cps", bad=0.001),
        stat("History queue", "Rows that wait for the database.",
             f"sum(mooring_history_queue{{{PROCESS}}})", warn=1000),
        table("Profiles that are served", "One line per server and profile: servers of one model must agree.",
              f"mooring_profile_info{{{SERVER}}}", hidden=("job",)),
    ]


def _readings() -> list[Json]:
    kinds = {"lost": "readings_lost", "dropped": "frames_dropped", "malformed": "frames_malformed"}
    return [
        row("Readings"),
        lines("Readings", "Answers without all of their readings, frames that workers could not send, and messages "
              "that were no frames, per second.",
              [(f"{kind} {{{{instance}}}}", rate(f"mooring_{name}_total", PROCESS, "instance"))
               for kind, name in kinds.items()], "cps"),
        lines("Sink errors", "Records that a consumer (`metrics`, `history`, `live`, `tracing`) could not take, per "
              f"second. {EMPTY}until one fails.",
              [("{{sink}} {{instance}}", rate("mooring_sink_errors_total", PROCESS, "sink, instance"))], "cps"),
    ]


def _history() -> list[Json]:
    return [
        row("History"),
        lines("Rows", "Rows that the database has acknowledged, and rows that were dropped, per second.",
              [("written {{instance}}", rate("mooring_history_rows_total", PROCESS, "instance")),
               ("lost {{instance}}", rate("mooring_history_rows_lost_total", PROCESS, "instance"))], "cps"),
        lines("Queue and failures", "Rows that wait, and on the right the writes per second that failed and are tried "
              "again.",
              [("waiting {{instance}}", f"sum by (instance) (mooring_history_queue{{{PROCESS}}})"),
               ("failing {{instance}}", rate("mooring_history_failures_total", PROCESS, "instance"))],
              right=("/^failing/", "cps")),
    ]


def _cost() -> list[Json]:
    return [
        row("What capping costs"),
        text("How to read this", COST, height=4),
        _latency("Time between tokens", "vllm:inter_token_latency_seconds"),
        _latency("Time to first token", "vllm:time_to_first_token_seconds"),
        lines("Time between tokens on servers that mostly cap, and that mostly do not", "Median over all servers that "
              f"cap more than half of their answers, and over the others. {EMPTY}of one kind where no server is.",
              [("mostly capped", time_between_tokens_where_capped("> 0.5")),
               ("mostly uncapped", time_between_tokens_where_capped("<= 0.5"))], "s"),
        lines("Requests running and waiting", "What else makes tokens slow: compare times only where the load is "
              "alike.",
              [("running {{instance}}", f"sum by (instance) (vllm:num_requests_running{{{SERVER}}})"),
               ("waiting {{instance}}", f"sum by (instance) (vllm:num_requests_waiting{{{SERVER}}})")]),
    ]


def _latency(title: str, histogram: str) -> Json:
    return lines(title, "vLLM's own median on each server, and on the right the share of its answers that are capped.",
                 [("{{instance}}", quantile(0.5, histogram, SERVER, BY_SERVER)),
                  ("capped {{instance}}", answers_capped(BY_SERVER))], "s", right=("/^capped/", "percentunit"))


COST: Final = """\
vLLM's latencies carry no profile, and could not mean much by profile if they did: capped and uncapped requests run in \
the same steps, so each waits for all. What can be shown is a **server's** latency beside the share of its answers \
that are capped, or servers that cap beside servers that do not, under a like load. To measure the cost itself, run \
`benchmarks/overhead.py`.
"""

ALL: Final = {"mooring-drift": drift, "mooring-health": health}
