"""Capability by lm-eval's tasks: `mooring bench quality URL --tasks ifeval,gsm8k,mmlu_pro,eq_bench`.

lm-eval runs in an environment of its own (--lm-eval PYTHON: `pip install "lm-eval[api]"`), once per arm, against the
endpoint, which it asks under the model's name NAME:PROFILE. Its data sets come from the hub's cache; HF_HUB_OFFLINE=1
keeps it from looking further. --tasks-from names a folder with tasks of one's own.

Every document is scored under every arm, and pairs by its id: 0-or-1 metrics get McNemar's test, all others a paired
bootstrap of their difference. The subtasks of a group that was asked for are one task. A document without a number for
a metric is left out of it and counted.

A loss is tolerable where its upper 95 % bound is at most --margin, which is stated before anything is measured, as a
share of the metric's range: 1, or 100 where some score is above 1, as eq_bench's are. With fewer than MIN_DOCUMENTS
nothing is said. Higher scores are taken to be better.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from mooring_bench import paired
from mooring_bench.asking import STOCK, Served, base_of
from mooring_bench.prompts import CannotMeasure

MIN_DOCUMENTS: Final = 30


class Scores(NamedTuple):
    """Of one metric of one task under one arm."""

    values: dict[str, float]
    """Document -> score."""
    documents: int
    """That the task has."""


Found = dict[str, Scores]
"""task: metric -> scores."""


class Options(NamedTuple):
    """How lm-eval is run."""

    names: str
    """Commas between them."""
    python: str
    folder: Path | None
    """With tasks of one's own."""
    limit: int | None
    concurrency: int
    seed: int


def check(options: Options) -> str:
    """lm-eval's version; CannotMeasure where that Python has none."""
    code = "from importlib.metadata import version; print(version('lm_eval'))"
    try:
        found = subprocess.run([options.python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise CannotMeasure(f"--lm-eval {options.python}: {error.strerror}") from None
    if found.returncode:
        raise CannotMeasure(
            f"{options.python} has no lm-eval\n"
            '  make an environment for it, pip install "lm-eval[api]" there, and name its Python with --lm-eval'
        )
    return found.stdout.strip()


def measure(url: str, served: Served, options: Options, found: dict[str, Found]) -> None:
    """Fill `found`, arm by arm: what stops a later arm leaves those before it."""
    for arm in served.arms:
        print(f"lm-eval: {options.names} under {arm.name} ...", file=sys.stderr, flush=True)
        model = served.model if arm.profile is None or arm.name == STOCK else f"{served.model}:{arm.profile}"
        with tempfile.TemporaryDirectory() as folder:
            _run(base_of(url), model, options, Path(folder))
            found[arm.name] = scores(Path(folder), options.names.split(","))


def _run(base: str, model: str, options: Options, folder: Path) -> None:
    where = f"model={model},base_url={base}/v1/chat/completions,num_concurrent={options.concurrency},max_retries=1"
    command = [
        options.python, "-m", "lm_eval", "--model", "local-chat-completions", "--model_args", where,
        "--tasks", options.names, "--apply_chat_template", "--log_samples", "--output_path", str(folder),
        "--gen_kwargs", "temperature=0", "--seed", str(options.seed),
        *(["--include_path", str(options.folder)] if options.folder else []),
        *(["--limit", str(options.limit)] if options.limit else []),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env={"OPENAI_API_KEY": "none"} | environment, capture_output=True, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise CannotMeasure(f"lm-eval stopped with {done.returncode}: {' '.join(last)[:300]}")


def scores(folder: Path, asked: Sequence[str]) -> Found:
    """Of the samples that lm-eval has logged: samples_TASK_DATE.jsonl, one document and filter a line."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    documents: dict[str, set[str]] = defaultdict(set)
    group_of = _groups(folder, asked)
    for file in sorted(folder.rglob("samples_*.jsonl")):
        own = file.stem.removeprefix("samples_").rsplit("_", 1)[0]
        task = group_of.get(own, own)
        for line in file.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            document, chosen = f"{own}/{sample['doc_id']}", sample.get("filter", "none")
            documents[task].add(document)
            for metric, value in _metrics(sample):
                values[f"{task}: {metric}" + ("" if chosen == "none" else f", {chosen}")][document] = value
    if not values:
        raise CannotMeasure("lm-eval has logged no sample")
    return {name: Scores(of, len(documents[name.partition(": ")[0]])) for name, of in values.items()}


def _groups(folder: Path, asked: Sequence[str]) -> dict[str, str]:
    """Task -> the group that was asked for, as lm-eval's results tell it."""
    members: dict[str, list[str]] = {}
    for file in folder.rglob("results_*.json"):
        members |= json.loads(file.read_text(encoding="utf-8")).get("group_subtasks", {})

    def tasks(name: str) -> Iterator[str]:
        for member in members.get(name, ()):
            yield from tasks(member)
        if not members.get(name):
            yield name

    return {task: name for name in asked for task in tasks(name)}


def _metrics(sample: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for metric in sample.get("metrics", ()):
        value = sample.get(metric)
        if isinstance(value, bool | int | float) and math.isfinite(value):
            yield metric, float(value)


# --- what follows from them ----------------------------------------------------------------------


def summarise(found: Mapping[str, Found], reference: str | None, margin: float, seed: int) -> dict[str, Any]:
    """ "task: metric" -> arm -> {mean, documents, without, against_reference}; documents pair by their id."""
    names = list(dict.fromkeys(name for of_arm in found.values() for name in of_arm))
    return {name: _metric(found, name, reference, margin, seed) for name in names}


def _metric(
    found: Mapping[str, Found], name: str, reference: str | None, margin: float, seed: int
) -> dict[str, dict[str, Any]]:
    of = {arm: scores.get(name, Scores({}, 0)) for arm, scores in found.items()}
    reach = 100.0 if any(value > 1 for scores in of.values() for value in scores.values.values()) else 1.0
    base = of[reference].values if reference in of else {}
    told = {}
    for arm, scores in of.items():
        both = sorted(scores.values.keys() & base.keys()) if arm != reference else []
        told[arm] = {
            "mean": paired.plain(paired.mean(list(scores.values.values()), seed)),
            "documents": scores.documents,
            "without": scores.documents - len(scores.values),
            "against_reference": against(
                [base[key] for key in both], [scores.values[key] for key in both], margin, reach, seed
            ),
        }
    return told


def against(
    reference: Sequence[float], other: Sequence[float], margin: float, reach: float, seed: int
) -> dict[str, Any] | None:
    """other - reference, its interval, McNemar's p where all scores are 0 or `reach`, and if the loss is tolerable."""
    if not reference:
        return None
    found, p = _change([value / reach for value in reference], [value / reach for value in other], seed)
    return {
        "difference": round(reach * found[0], 5),
        "low": round(reach * found[1], 5),
        "high": round(reach * found[2], 5),
        "p": None if p is None else round(p, 5),
        "n": len(reference),
        "margin": reach * margin,
        "tolerable": -found[1] <= margin if len(reference) >= MIN_DOCUMENTS else None,
    }


def _change(
    reference: Sequence[float], other: Sequence[float], seed: int
) -> tuple[tuple[float, float, float], float | None]:
    """((value, low, high), p) of scores between 0 and 1; the interval is the wider of bootstrap and closed form."""
    if {*reference, *other} <= {0.0, 1.0}:
        change = paired.difference(paired.Table.of([r == 1 for r in reference], [o == 1 for o in other]), seed)
        assert change is not None
        ends = min(change.low, change.closed_low), max(change.high, change.closed_high)
        return (change.value, *ends), change.p
    found = paired.bounded([o - r for r, o in zip(reference, other, strict=True)], seed)
    assert found.value is not None and found.low is not None and found.high is not None
    return (found.value, found.low, found.high), None
