"""From records to numbers: what every arm did on every set, and how far from the reference arm.

    sets        set -> arm -> {prompts, failed, unjudged, cut_off, measures, against_reference, readings}
    categories  set -> category -> arm -> measure -> its rate, where prompts have categories
    drift       set of talks -> arm -> {by_turn, slope_per_turn, last_turns, against_reference}
    separation  how well projections at the monitored layer tell default from role answers, under the reference

`cut_off` counts last answers that reached the limit of tokens. Readings are the server's own `mooring` objects,
one per answer; where it sends none, or no number in one, there is nothing to average and `n` says so.
Projections and lifts are in residual-stream units along +axis, drift is 0 at the mean default answer and 1 at the
mean role-play, lifted_share is a share of tokens. Drift and lift of a profile with an axis of its own are
along that axis.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from mooring_bench import paired
from mooring_bench.asking import STOCK, Record, Reply
from mooring_bench.judges import ModelJudge, Outcomes
from mooring_bench.prompts import BACK_TURNS

OFF: Final = "off"
Summary = dict[str, Any]


def reference_of(arms: Sequence[str]) -> str | None:
    """The arm that the others are compared with; None where there is no uncapped one."""
    return OFF if OFF in arms else STOCK if STOCK in arms else None


class Judged:
    """The records of a run, each judged once."""

    def __init__(self, records: Sequence[Record], arms: Sequence[str]) -> None:
        self.arms = tuple(arms)
        self.reference = reference_of(arms)
        self._of: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
        self._outcomes: dict[tuple[str, str], dict[str, Outcomes]] = defaultdict(dict)
        for record in records:
            at = record.prompt.set, record.arm
            self._of[at][record.prompt.id] = record
            self._outcomes[at][record.prompt.id] = outcomes(record)

    def records(self, name: str, arm: str) -> Mapping[str, Record]:
        return self._of.get((name, arm), {})

    def outcomes(self, name: str, arm: str) -> Mapping[str, Outcomes]:
        return self._outcomes.get((name, arm), {})

    def outcome(self, name: str, arm: str, measure: str) -> dict[str, bool]:
        """Prompt id -> the outcome, for those prompts that were judged."""
        found = self.outcomes(name, arm)
        return {key: judged[measure] for key, judged in found.items() if measure in judged}

    def sets(self) -> list[str]:
        return sorted({name for name, _ in self._of})

    def measures(self, name: str) -> list[str]:
        """Every measure that some answer of a set was judged by."""
        everyone = (judged for arm in self.arms for judged in self.outcomes(name, arm).values())
        return list(dict.fromkeys(measure for judged in everyone for measure in judged))


def outcomes(record: Record) -> Outcomes:
    """Of the last answer; none where there is no judge, or a turn was refused."""
    if record.failed is not None or record.prompt.expect is None:
        return {}
    if isinstance(record.prompt.expect, ModelJudge):
        return record.prompt.expect.of_verdict(record.verdict)
    last = record.replies[-1]
    return record.prompt.expect.outcomes(last.text, last.ended)


def summarise(judged: Judged, seed: int) -> Summary:
    return {
        "reference": judged.reference,
        "sets": {name: {arm: _arm(judged, name, arm, seed) for arm in judged.arms} for name in judged.sets()},
        "categories": _categories(judged),
        "drift": _drift(judged, seed),
        "separation": _separation(judged),
    }


def _arm(judged: Judged, name: str, arm: str, seed: int) -> Summary:
    records, found = judged.records(name, arm), judged.outcomes(name, arm)
    to_judge = [key for key, r in records.items() if r.prompt.expect is not None and r.failed is None]
    return {
        "prompts": len(records),
        "failed": sum(record.failed is not None for record in records.values()),
        "unjudged": sum(not found[key] for key in to_judge),
        "cut_off": sum(not record.replies[-1].ended for record in records.values() if record.replies),
        "measures": {m: paired.plain(_rate(judged.outcome(name, arm, m))) for m in judged.measures(name)},
        "against_reference": _against(judged, name, arm, seed),
        "readings": _readings([reply for record in records.values() for reply in record.replies], seed),
    }


def _categories(judged: Judged) -> Summary:
    found: Summary = {}
    for name in judged.sets():
        of = {key: r.prompt.category for arm in judged.arms for key, r in judged.records(name, arm).items()}
        for category in sorted({each for each in of.values() if each is not None}):
            found.setdefault(name, {})[category] = {
                arm: {m: paired.plain(_rate(_part(judged, name, arm, m, of, category))) for m in judged.measures(name)}
                for arm in judged.arms
            }
    return found


def _part(
    judged: Judged, name: str, arm: str, measure: str, of: Mapping[str, str | None], category: str
) -> dict[str, bool]:
    return {key: true for key, true in judged.outcome(name, arm, measure).items() if of[key] == category}


def _rate(found: Mapping[str, bool]) -> paired.Estimate:
    return paired.rate(sum(found.values()), len(found))


def table(judged: Judged, name: str, arm: str, measure: str) -> paired.Table:
    """The prompts that were judged both under the reference and under `arm`."""
    before = judged.outcome(name, judged.reference or arm, measure)
    after = judged.outcome(name, arm, measure)
    both = sorted(before.keys() & after.keys())
    return paired.Table.of([before[key] for key in both], [after[key] for key in both])


def _against(judged: Judged, name: str, arm: str, seed: int) -> Summary | None:
    if judged.reference in (None, arm):
        return None
    against = {}
    for measure in judged.measures(name):
        cells = table(judged, name, arm, measure)
        against[measure] = {"difference": paired.plain(paired.difference(cells, seed))}
        if measure == "harm":
            against[measure]["cut"] = paired.plain(paired.cut(cells))
    return against


# --- readings ------------------------------------------------------------------------------------


def number(reading: Mapping[str, Any] | None, key: str) -> float | None:
    value = (reading or {}).get(key)
    return None if value is None else float(value)


def _numbers(replies: Sequence[Reply], key: str) -> list[float]:
    found = (number(reply.reading, key) for reply in replies)
    return [value for value in found if value is not None]


def _readings(replies: Sequence[Reply], seed: int) -> Summary:
    with_one = [reply.reading for reply in replies if reply.reading is not None]
    means = {key: paired.plain(paired.mean(_numbers(replies, key), seed)) for key in ("projection", "drift")}
    return {
        "answers": len(replies),
        "with_reading": len(with_one),
        "complete": sum(bool(reading.get("complete")) for reading in with_one),
        **means,
        "lifted_share": paired.plain(paired.mean(_numbers(replies, "lifted_share"), seed)),
        "lift_by_layer": {layer: round(sum(v) / len(v), 4) for layer, v in _by_layer(replies, "lift").items()},
    }


def _by_layer(replies: Sequence[Reply], key: str) -> dict[str, list[float]]:
    """Layer -> one number per answer that has one."""
    found: dict[str, list[float]] = defaultdict(list)
    for reply in replies:
        for layer, reading in ((reply.reading or {}).get("layers") or {}).items():
            if (value := number(reading, key)) is not None:
                found[layer].append(value)
    return dict(sorted(found.items(), key=lambda entry: int(entry[0])))


# --- drift by turn -------------------------------------------------------------------------------


def _drift(judged: Judged, seed: int) -> Summary:
    """Of every set that is talks throughout, and every arm that reads drift there."""
    paths = {(name, arm): drift_paths(judged.records(name, arm)) for name in judged.sets() for arm in judged.arms}
    found: dict[str, Summary] = defaultdict(dict)
    for (name, arm), of_arm in paths.items():
        if of_arm:
            before = {} if judged.reference in (None, arm) else paths.get((name, judged.reference), {})
            found[name][arm] = _of_talks(list(of_arm.values()), seed) | {
                "against_reference": _talks_against(before, of_arm, seed)
            }
    return dict(found)


def drift_paths(records: Mapping[str, Record]) -> dict[str, list[float]]:
    """Of the talks with a drift at every turn, all of the commonest length."""
    paths = dict(_paths(records))
    lengths = Counter(map(len, paths.values())).most_common(1)
    return {key: path for key, path in paths.items() if len(path) == lengths[0][0] > 1}


def _paths(records: Mapping[str, Record]) -> Iterator[tuple[str, list[float]]]:
    for key, record in records.items():
        drifts = _numbers(record.replies, "drift")
        if record.failed is None and len(drifts) == len(record.replies):
            yield key, drifts


def _of_talks(paths: Sequence[Sequence[float]], seed: int) -> Summary:
    def mean(of: Callable[[Sequence[float]], float]) -> Summary | None:
        return paired.plain(paired.mean([of(path) for path in paths], seed))

    turns = range(len(paths[0]))
    return {
        "by_turn": [paired.plain(paired.mean([path[turn] for path in paths], seed)) for turn in turns],
        "slope_per_turn": mean(paired.slope),
        "last_turns": mean(last_turns) if len(paths[0]) > BACK_TURNS else None,
    }


def _talks_against(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], seed: int) -> Any:
    """Of talks under both: how much lower or higher a talk's mean drift is than under the reference."""
    both = sorted(before.keys() & after.keys())
    changes = [sum(after[key]) / len(after[key]) - sum(before[key]) / len(before[key]) for key in both]
    return paired.plain(paired.mean(changes, seed)) if both else None


def last_turns(path: Sequence[float]) -> float:
    """Change of drift over the last BACK_TURNS turns; below 0 = back towards the Assistant."""
    return path[-1] - path[-1 - BACK_TURNS]


# --- default against role ------------------------------------------------------------------------


def _separation(judged: Judged) -> Summary | None:
    """Under the reference: the role answers that are in voice, as in the paper, and then all of them."""
    if judged.reference is None:
        return None
    default = _answers(judged, "default_answers", lambda key: True)
    voice = judged.outcome("role_play", judged.reference, "voice")
    role, playing = (_answers(judged, "role_play", keep) for keep in (lambda key: True, lambda key: voice.get(key)))
    layers = {reply.reading.get("monitored_layer") for reply in default if reply.reading}
    return {
        "monitored_layer": layers.pop() if len(layers) == 1 else None,
        "auc": _auc(default, playing, "projection"),
        "auc_with_role_answers_out_of_voice": _auc(default, role, "projection"),
        "auc_by_layer": _auc_by_layer(default, playing),
    }


def _answers(judged: Judged, name: str, keep: Callable[[str], Any]) -> list[Reply]:
    records = judged.records(name, judged.reference or "")
    return [record.replies[-1] for key, record in records.items() if record.failed is None and keep(key)]


def _auc(default: Sequence[Reply], role: Sequence[Reply], key: str) -> Summary | None:
    return paired.plain(paired.auc(_numbers(default, key), _numbers(role, key)))


def _auc_by_layer(default: Sequence[Reply], role: Sequence[Reply]) -> dict[str, float | None]:
    above, below = _by_layer(default, "projection"), _by_layer(role, "projection")
    found = {layer: paired.auc(above[layer], below[layer]).value for layer in above if layer in below}
    return {layer: None if value is None else round(value, 4) for layer, value in found.items()}
