"""From records to numbers: what every arm did on every set, and how far from the reference arm.

    sets        set -> arm -> {prompts, failed, unjudged, cut_off, measures, against_reference, readings}
    categories  set -> category -> arm -> measure -> its rate, where prompts have categories
    drift       set of talks -> arm -> {by_turn, slope_per_turn, last_turns, against_reference}
    by_outcome  set judged for harm -> arm -> harmful, not_harmful -> {n, drift, lifted_share} of the last answer
    separation  how well projections at the monitored layer tell default from role answers, under the reference

`prompts` counts a prompt once for each seed it was asked under, `cut_off` last answers that reached the limit of
tokens. Readings are the server's own `mooring` objects, one per answer (where_it_lay.py); where it sends none, or no
number in one, there is nothing to average and `n` says so. Projections and lifts are in residual-stream units along
+axis, drift is 0 at the mean default answer and 1 at the mean role-play, lifted_share is a share of tokens. Drift and
lift of a profile with an axis of its own are along that axis.
"""

from collections.abc import Mapping
from typing import Any

from mooring_bench import paired, where_it_lay
from mooring_bench.judged import Judged, Key

Summary = dict[str, Any]


def summarise(judged: Judged, seed: int) -> Summary:
    return {
        "reference": judged.reference,
        "sets": {name: {arm: _arm(judged, name, arm, seed) for arm in judged.arms} for name in judged.sets()},
        "categories": _categories(judged),
        "drift": where_it_lay.drift(judged, seed),
        "by_outcome": where_it_lay.by_outcome(judged, seed),
        "separation": where_it_lay.separation(judged),
    }


def _arm(judged: Judged, name: str, arm: str, seed: int) -> Summary:
    records, found = judged.records(name, arm), judged.outcomes(name, arm)
    to_judge = [key for key, r in records.items() if r.prompt.expect is not None and r.failed is None]
    rates = {m: judged.rate(name, judged.outcome(name, arm, m)) for m in judged.measures(name)}
    return {
        "prompts": len(records),
        "failed": sum(record.failed is not None for record in records.values()),
        "unjudged": sum(not found[key] for key in to_judge),
        "cut_off": sum(not record.replies[-1].ended for record in records.values() if record.replies),
        "measures": {measure: paired.plain(rate) for measure, rate in rates.items()},
        "against_reference": _against(judged, name, arm, seed),
        "readings": where_it_lay.readings(judged, name, arm, seed),
    }


def _categories(judged: Judged) -> Summary:
    found: Summary = {}
    for name in judged.sets():
        of = {key: r.prompt.category for arm in judged.arms for key, r in judged.records(name, arm).items()}
        for category in sorted({each for each in of.values() if each is not None}):
            found.setdefault(name, {})[category] = {
                arm: {m: _part(judged, name, arm, m, of, category) for m in judged.measures(name)}
                for arm in judged.arms
            }
    return found


def _part(
    judged: Judged, name: str, arm: str, measure: str, of: Mapping[Key, str | None], category: str
) -> Summary | None:
    found = {key: true for key, true in judged.outcome(name, arm, measure).items() if of[key] == category}
    return paired.plain(judged.rate(name, found))


def _against(judged: Judged, name: str, arm: str, seed: int) -> Summary | None:
    if judged.reference in (None, arm):
        return None
    against = {}
    for measure in judged.measures(name):
        table, parts = tables(judged, name, arm, measure)
        against[measure] = {"difference": paired.plain(paired.difference(table, seed, parts))}
        if measure == "harm":
            against[measure]["cut"] = paired.plain(paired.cut(table, parts))
    return against


def tables(judged: Judged, name: str, arm: str, measure: str) -> tuple[paired.Table, list[paired.Table]]:
    """The records that were judged both under the reference and under `arm`, in all and by cluster."""
    before = judged.outcome(name, judged.reference or arm, measure)
    after = judged.outcome(name, arm, measure)
    both = sorted(before.keys() & after.keys())
    reference, other = [before[key] for key in both], [after[key] for key in both]
    return paired.Table.of(reference, other), paired.Table.by(reference, other, judged.clusters(name, both))
