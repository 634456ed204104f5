"""The result of a quality run as text for people: tables in Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from mooring_bench.record import machine
from mooring_bench.summary import Summary
from mooring_bench.targets import against, rate


class Column(NamedTuple):
    title: str
    set: str
    measure: str


COLUMNS: Final = (
    Column("harm", "jailbreaks", "harm"),
    Column("harm, persona in system", "jailbreaks_system", "harm"),
    Column("exact refusal", "jailbreaks", "exact_refusal"),
    Column("broken", "jailbreaks", "broken"),
    Column("plain harm refused", "plain_harm", "refused"),
    Column("capability", "capability", "correct"),
    Column("role voice", "role_play", "voice"),
)
OF_TALKS: Final = {"": "harm", ": broken": "broken"}
"""An answer may be neither harmful nor a refusal: then it is broken."""
TOLERABLE: Final = {True: "yes", False: "not shown", None: "too few documents"}
MET: Final = {True: "met", False: "NOT MET", None: "not measured"}


def card(result: Summary) -> str:
    parts = (
        _head(result), _arms(result), _losses(result), _categories(result), _tasks(result), _harm_in_talks(result),
        _by_outcome(result), _drift(result), _prompts(result), _targets(result),
    )  # fmt: skip
    return "\n\n".join("\n".join(part) for part in (list(lines) for lines in parts) if part)


def _head(result: Summary) -> Iterator[str]:
    where, served = result["where"], result["server"]
    vllm = f"vLLM {served['vllm']}" if served["vllm"] else "a server that does not tell its version"
    arms = len(served["arms"])
    yield f"# Quality of `{served['model']}` under {arms} {'profile' if arms == 1 else 'profiles'}"
    yield ""
    if result["partial"]:
        yield f"**Partial: {result['stopped']}.** {result['records']} of {result['asked']} prompts were answered."
        yield ""
    yield f"{vllm}, {machine(where)}, {where['date']}, commit {where['commit']}, seed {result['settings']['seed']}."
    yield f"Shares with 95 % intervals; `off` touches nothing. Same prompts under every profile, {_answers(result)}."
    if _made_of(result):
        yield "Prompts of one cluster are alike: intervals take each cluster as one draw, and p flips whole clusters."
    if result["note"]:
        yield f"Served by `{result['note']}`."
    yield from _warnings(result)


def _answers(result: Summary) -> str:
    """How they were drawn."""
    settings = result["settings"]
    if not settings["temperature"]:
        return "greedy answers"
    return f"answers at temperature {settings['temperature']:g} under seeds {', '.join(map(str, settings['seeds']))}"


def _warnings(result: Summary) -> Iterator[str]:
    for name, arms in result["sets"].items():
        for arm, found in arms.items():
            for what in ("failed", "unjudged"):
                if found[what]:
                    yield f"- {name}, {arm}: {found[what]} of {found['prompts']} {what}, and so not scored."
    readings = [found["readings"] for arms in result["sets"].values() for found in arms.values()]
    given, whole = (sum(reading[key] for reading in readings) for key in ("with_reading", "complete"))
    if whole < given:
        yield f"- {given - whole} of {given} readings are of some of their answer's tokens: the others came too late."


def _arms(result: Summary) -> Iterator[str]:
    columns = [c for c in COLUMNS if any(rate(result, c.set, arm, c.measure) for arm in result["server"]["arms"])]
    if not columns:
        return
    yield from _heading("Profiles", ["profile", *(column.title for column in columns), "tokens lifted"])
    for arm in result["server"]["arms"]:
        cells = [_share(rate(result, column.set, arm, column.measure)) for column in columns]
        yield _row([_named(arm, result), *cells, _lifted(result, arm)])


def _named(arm: str, result: Summary) -> str:
    return f"{arm} (default)" if arm == result["server"]["default"] else arm


def _lifted(result: Summary, arm: str) -> str:
    """Share of the tokens of answers to jailbreaks."""
    readings = result["sets"].get("jailbreaks", {}).get(arm, {}).get("readings")
    return _share(readings["lifted_share"], bounds=False) if readings else "-"


def _losses(result: Summary) -> Iterator[str]:
    arms = [arm for arm in result["server"]["arms"] if against(result, "jailbreaks", arm, "harm", "difference")]
    if not arms:
        return
    header = ["profile", "cut of harm", "p", "loss of capability, points", "p"]
    yield from _heading(f"Against `{result['reference']}`, item by item", header)
    for arm in arms:
        harm = against(result, "jailbreaks", arm, "harm", "difference")
        correct = against(result, "capability", arm, "correct", "difference")
        cut = _share(against(result, "jailbreaks", arm, "harm", "cut"))
        yield _row([_named(arm, result), cut, _p(harm), _points(correct), _p(correct)])


def _categories(result: Summary) -> Iterator[str]:
    """The first measure of every set whose prompts have categories."""
    if not (told := result.get("categories")):
        return
    yield from _heading("By category", ["set", "category", "measure", *result["server"]["arms"]])
    for name, categories in told.items():
        for category, arms in categories.items():
            measure = next(iter(next(iter(arms.values()))), None)
            if measure is not None:
                yield _row([name, category, measure, *(_share(arms[arm][measure]) for arm in result["server"]["arms"])])


def _tasks(result: Summary) -> Iterator[str]:
    """Of lm-eval, where it was run."""
    if not (told := result.get("tasks")):
        return
    margin = "less than its margin is lost"
    header = ["task", "profile", "documents", "mean", "against reference", "p", margin]
    yield from _heading(f"lm-eval {told['lm_eval']}", header)
    for name, arms in told["found"].items():
        for arm, found in arms.items():
            change = found["against_reference"]
            cells = ["-"] * 3
            if change:
                interval = f"{change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"
                verdict = f"{TOLERABLE[change['tolerable']]}, {change['margin']:g}"
                cells = [interval, "-" if change["p"] is None else f"{change['p']:.2g}", verdict]
            scored = f"{found['documents'] - found['without']} of {found['documents']}"
            yield _row([name, arm, scored, _share(found["mean"]), *cells])
    if told["stopped"]:
        yield ""
        yield f"**Not measured to the end: {told['stopped']}**"


def _harm_in_talks(result: Summary) -> Iterator[str]:
    names = [name for name in result["sets"] if name.startswith("talk_") and _any_harm(result, name)]
    if not names:
        return
    columns = [Column(f"{name}{more}", name, measure) for name in names for more, measure in OF_TALKS.items()]
    yield from _heading("Harm at the end of a talk", ["profile", *(column.title for column in columns)])
    for arm in result["server"]["arms"]:
        yield _row([arm, *(_share(rate(result, column.set, arm, column.measure)) for column in columns)])


def _any_harm(result: Summary, name: str) -> bool:
    return any(rate(result, name, arm, "harm") for arm in result["server"]["arms"])


def _by_outcome(result: Summary) -> Iterator[str]:
    """Whether the answers that were harmful lay lower, or were lifted less."""
    if not (told := result.get("by_outcome")):
        return
    of_each = ["drift", "tokens lifted"]
    header = ["set", "profile", "harmful answers", *of_each, "not harmful", *of_each]
    yield from _heading("Drift beside outcome", header)
    for name, arms in told.items():
        for arm, found in arms.items():
            yield _row([name, arm, *_beside(found["harmful"]), *_beside(found["not_harmful"])])


def _beside(found: Summary) -> list[str]:
    return [str(found["n"]), _share(found["drift"], digits=2), _share(found["lifted_share"], digits=2)]


def _drift(result: Summary) -> Iterator[str]:
    """Of the talks that end in no request for harm: how those end has a table of its own."""
    talks = {name: arms for name, arms in result["drift"].items() if not _any_harm(result, name)}
    if not talks:
        return
    longest = max(len(found["by_turn"]) for arms in talks.values() for found in arms.values())
    turns = [f"turn {turn}" for turn in range(1, longest + 1)]
    yield from _heading("Drift by turn", ["talk", "profile", *turns, "per turn", "mean, against off"])
    for name, arms in talks.items():
        for arm, found in arms.items():
            cells = [f"{turn['value']:.2f}" for turn in found["by_turn"]]
            change = _share(found["slope_per_turn"], digits=2), _share(found.get("against_reference"), digits=2)
            yield _row([name, arm, *cells, *[""] * (longest - len(cells)), *change])


def _made_of(result: Summary) -> dict[str, Any]:
    """Set -> what it is made of; older documents tell but a number."""
    return {name: of for name, of in result["settings"]["sets"].items() if isinstance(of, dict)}


def _prompts(result: Summary) -> Iterator[str]:
    if not (sets := _made_of(result)):
        return
    yield from _heading("Prompts", ["set", "prompts", "different texts of the user", "clusters"])
    for name, of in sets.items():
        yield _row([name, *map(str, of.values())])


def _targets(result: Summary) -> Iterator[str]:
    of_demo = result["server"].get("demo", True)
    title = "Targets" if of_demo else "Targets, which were set for the embedded demo"
    yield from _heading(title, ["target", "wanted", "found", ""])
    for target in result["targets"]:
        yield _row([target["target"], target["wanted"], _found(target["found"]), MET[target["met"]]])


def _found(found: Any) -> str:
    if not found:
        return "-"
    if "missing" in found:
        return f"without {', '.join(found['missing'])}" if found["missing"] else "all"
    if "upper" in found:
        return f"{found['loss']:.3f}, upper bound {found['upper']:.3f}"
    return f"{_share(found)}{' in ' + found['set'] if 'set' in found else ''}"


def _heading(title: str, columns: Sequence[str]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield _row(columns)
    yield _row(["---"] * len(columns))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(found: Summary | None, bounds: bool = True, digits: int = 3) -> str:
    if not found or found["value"] is None:
        return "-"
    interval = f" ({found['low']:.{digits}f} to {found['high']:.{digits}f})" if bounds else ""
    return f"{found['value']:.{digits}f}{interval}"


def _points(change: Summary | None) -> str:
    """A loss, so the sign turns round, with the wider interval of both; + 0.0 makes a zero of -0.0."""
    if not change:
        return "-"
    ends = change["value"], max(change["high"], change["closed_high"]), min(change["low"], change["closed_low"])
    value, low, high = (round(-100 * each, 1) + 0.0 for each in ends)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _p(change: Summary | None) -> str:
    return "-" if not change else "< 1e-4" if change["p"] < 1e-4 else f"{change['p']:.2g}"
