"""The PromQL that Mooring's dashboards ask. Functions take a selector and the labels to sum `by`."""

from typing import Final

PROCESS: Final = 'job=~"$job", instance=~"$instance"'
SERVER: Final = f'{PROCESS}, model_name=~"$model_name"'
TURNS: Final = f'{SERVER}, profile=~"$profile", arm=~"$arm"'
CAPPED: Final = f'{TURNS}, profile!="off"'
OFF: Final = f'{TURNS}, profile="off"'


def rate(metric: str, selector: str, by: str = "") -> str:
    """Per second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}[$__rate_interval]))"


def ratio(above: str, below: str) -> str:
    """Nothing, rather than NaN, where there is no traffic."""
    return f"{above} / ({below} > 0)"


def quantile(q: float, histogram: str, selector: str, by: str = "") -> str:
    grouped = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', selector, grouped)})"


def mean_drift(selector: str, by: str = "") -> str:
    """Of counters: drift is signed, and the sum of its histogram is of no use."""
    up, down = (rate(f"mooring_drift_{sign}_total", selector, by) for sign in ("positive", "negative"))
    return ratio(f"({up} - {down})", rate("mooring_drift_count", selector, by))


def mean_lift(selector: str, by: str = "") -> str:
    return ratio(rate("mooring_lift_total", selector, by), rate("mooring_tokens_total", selector, by))


def tokens_lifted(selector: str, by: str = "") -> str:
    """Their share."""
    lifted = rate("mooring_tokens_total", f'{selector}, state="lifted"', by)
    return ratio(lifted, rate("mooring_tokens_total", selector, by))


def answers_on_the_floor(selector: str, by: str = "") -> str:
    """The share of answers of whose tokens more than 90 % were lifted."""
    others = rate("mooring_lifted_share_bucket", f'{selector}, le="0.9"', by)
    return f"1 - {ratio(others, rate('mooring_lifted_share_count', selector, by))}"


def answers_capped(by: str = "") -> str:
    """Their share; 0 where all ran under `off`."""
    every = rate("mooring_turns_total", SERVER, by)
    capped = rate("mooring_turns_total", f'{SERVER}, profile!="off"', by)
    return ratio(f"({capped} or 0 * {every})", every)


def readings_lost() -> str:
    """The share of answers that went out without all of their readings."""
    return ratio(rate("mooring_readings_lost_total", PROCESS), rate("mooring_turns_total", SERVER))


def time_between_tokens_where_capped(compared: str) -> str:
    """The median over servers whose share of capped answers compares so."""
    buckets = rate("vllm:inter_token_latency_seconds_bucket", SERVER, "job, instance, le")
    chosen = f"({answers_capped('job, instance')}) {compared}"
    return f"histogram_quantile(0.5, sum by (le) ({buckets} and on (job, instance) ({chosen})))"


def servers_tested() -> str:
    """How many have passed their self-test; a server that has not does not answer, and has no metrics."""
    return f"sum(mooring_selftest_ok{{{SERVER}}})"


def profiles_that_differ() -> str:
    """How many profiles the servers of one model hold in more than one version."""
    held = f"mooring_profile_info{{{SERVER}}}"
    versions = f"count by (job, model_name, profile, axis, layers, floors, positions, default) ({held})"
    return f"count(count by (job, model_name, profile) ({versions}) > 1) or 0 * count({held})"
