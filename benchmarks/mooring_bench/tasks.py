"""Capability by lm-eval's tasks: `mooring bench quality URL --tasks ifeval,gsm8k,mmlu_pro,eq_bench`.

lm-eval runs in an environment of its own (--lm-eval PYTHON: `pip install "lm-eval[api]"`), once per arm, against the
endpoint, which it asks under the model's name NAME:PROFILE. Its data sets come from the hub's cache; HF_HUB_OFFLINE=1
keeps it from looking further. --tasks-from names a folder with tasks of one's own.

Every document is scored under every arm, and pairs by its id: 0-or-1 metrics get McNemar's test, all others a paired
bootstrap of their difference. A loss is tolerable where its upper 95 % bound is at most --margin, which is stated
before anything is measured.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mooring_bench import paired
from mooring_bench.asking import STOCK, Served, base_of
from mooring_bench.prompts import CannotMeasure

Scores = dict[str, float]
"""Document -> score."""


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


def measure(url: str, served: Served, options: Options) -> dict[str, dict[str, Scores]]:
    """Arm -> "task: metric" -> scores."""
    found = {}
    for arm in served.arms:
        print(f"lm-eval: {options.names} under {arm.name} ...", file=sys.stderr, flush=True)
        model = served.model if arm.profile is None or arm.name == STOCK else f"{served.model}:{arm.profile}"
        with tempfile.TemporaryDirectory() as folder:
            _run(base_of(url), model, options, Path(folder))
            found[arm.name] = scores(Path(folder))
    return found


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


def scores(folder: Path) -> dict[str, Scores]:
    """Of the samples that lm-eval has logged: samples_TASK_DATE.jsonl, one document and filter a line."""
    found: dict[str, Scores] = defaultdict(dict)
    for file in sorted(folder.rglob("samples_*.jsonl")):
        task = file.stem.removeprefix("samples_").rsplit("_", 1)[0]
        for line in file.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            for metric, value in _metrics(sample):
                chosen = sample.get("filter", "none")
                name = f"{task}: {metric}" + ("" if chosen == "none" else f", {chosen}")
                found[name][str(sample["doc_id"])] = value
    if not found:
        raise CannotMeasure("lm-eval has logged no sample")
    return dict(found)


def _metrics(sample: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for metric in sample.get("metrics", ()):
        value = sample.get(metric)
        if isinstance(value, bool | int | float):
            yield metric, float(value)


# --- what follows from them ----------------------------------------------------------------------


def summarise(
    found: Mapping[str, Mapping[str, Scores]], reference: str | None, margin: float, seed: int
) -> dict[str, Any]:
    """ "task: metric" -> arm -> {mean, n, against_reference}; documents pair by their id."""
    names = list(dict.fromkeys(name for of_arm in found.values() for name in of_arm))
    return {name: {arm: _arm(found, name, arm, reference, margin, seed) for arm in found} for name in names}


def _arm(
    found: Mapping[str, Mapping[str, Scores]], name: str, arm: str, reference: str | None, margin: float, seed: int
) -> dict[str, Any]:
    own = found[arm].get(name, {})
    told: dict[str, Any] = {"mean": paired.plain(paired.mean(list(own.values()), seed)), "against_reference": None}
    if reference in (None, arm) or reference not in found:
        return told
    base = found[reference].get(name, {})
    both = sorted(own.keys() & base.keys())
    return told | {"against_reference": against([base[k] for k in both], [own[k] for k in both], margin, seed)}


def against(reference: Sequence[float], other: Sequence[float], margin: float, seed: int) -> dict[str, Any] | None:
    """other - reference, its interval, McNemar's p where all scores are 0 or 1, and whether the loss is tolerable."""
    if not reference:
        return None
    if {*reference, *other} <= {0.0, 1.0}:
        change = paired.difference(paired.Table.of([r == 1 for r in reference], [o == 1 for o in other]), seed)
        assert change is not None
        value, p = change.value, change.p
        low, high = min(change.low, change.closed_low), max(change.high, change.closed_high)
    else:
        found = paired.mean([o - r for r, o in zip(reference, other, strict=True)], seed)
        assert found.value is not None and found.low is not None and found.high is not None
        value, low, high, p = found.value, found.low, found.high, None
    return {
        "difference": round(value, 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "p": None if p is None else round(p, 5),
        "n": len(reference),
        "margin": margin,
        "tolerable": -low <= margin,
    }
