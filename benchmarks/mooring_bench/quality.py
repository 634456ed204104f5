"""What a profile does to a served model: harm, refusals, capability, voice and drift, item by item against `off`.

    mooring bench quality URL [--arms off,gentle,strong] [--out FILE.json]
    mooring bench quality URL --prompts demo|general|FILE.jsonl ...

URL is any OpenAI-compatible endpoint. Without --arms every profile that GET /v1/models lists is measured; the arm
`default` is the profile of requests that name none. A server without Mooring is measured as the arm `stock`, with no
profile asked for and no readings.

Without --prompts the embedded demo is asked its held-out sets (demo_sets.py), and any other model the general ones
(general.jsonl); prompts.py describes the format of a prompt file, judges.py how answers are judged. Answers are greedy;
with --temperature and --seeds every prompt is answered once under each seed, and all of its answers count as one draw.
OPENAI_API_KEY is sent to URL if it is set, and MOORING_JUDGE_API_KEY to the judge.

Output: a card for people, then the very last line of stdout is one JSON document with the same numbers and more
(summary.py, targets.py). --out writes the document, and the card beside it with the ending .md; --answers writes
every answer with its outcomes and its reading, one JSON object a line, for judges of another kind.

Exit code 0: measured to the end, whether or not targets are met. 1 or 130: the server went away, or somebody
pressed Ctrl-C or sent SIGTERM; what was measured until then is written and marked "partial". With --out it is also
written while the run goes on. 2: something to put right first.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from mooring_bench import paired, targets, tasks, verdicts
from mooring_bench.asking import Limits, Record, Run, Served, ask_all, look
from mooring_bench.card import card
from mooring_bench.demo_sets import SEED
from mooring_bench.judged import Judged, outcomes
from mooring_bench.judges import ModelJudge
from mooring_bench.options import check_writable, count, names, not_negative, numbers
from mooring_bench.prompts import CannotMeasure, Prompt, limited, made_of
from mooring_bench.record import save, where
from mooring_bench.sources import DEMO, prompts_of, usual
from mooring_bench.stopping import INTERRUPTED, INTERRUPTED_CODE, sigterm_as_ctrl_c
from mooring_bench.summary import summarise

MAX_TOKENS_DEMO: Final = 96
MAX_TOKENS: Final = 512
SAVE_SECONDS: Final = 60.0
"""Between two partial results, at least."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        with sigterm_as_ctrl_c():
            return _main(options)
    except CannotMeasure as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED_CODE


def _main(options: argparse.Namespace) -> int:
    check(options)
    given = prompts_of(options.prompts, options.seed) if options.prompts else None
    served = asyncio.run(look(options.url, options.model, options.arms))
    if given is None:
        options.prompts = [usual(served.identity)]
        print(f"quality: asking the {options.prompts[0]} sets; --prompts names others", file=sys.stderr)
    prompts = limited(given or prompts_of(options.prompts, options.seed), options.limit)
    judge = _judge(options, prompts)
    version = tasks.check(_task_options(options)) if options.tasks else None
    run = measure(options, served, prompts, judge)
    result = result_of(options, served, prompts, run)
    if version is not None and not run.stopped:
        if options.out is not None:
            save(options.out, result | {"partial": True, "stopped": "lm-eval is still running"})
        result["tasks"] = _tasks(options, served, result, version)
        run.stopped = result["tasks"]["stopped"]
        result |= {"partial": run.stopped is not None, "stopped": run.stopped}
    publish(options, result, run.records)
    return INTERRUPTED_CODE if run.stopped == INTERRUPTED else 1 if run.stopped else 0


def check(options: argparse.Namespace) -> None:
    """What can be told before anybody is asked."""
    check_writable(options.out)
    check_writable(options.answers)
    if len(_seeds(options)) > 1 and not options.temperature:
        raise CannotMeasure("greedy answers are the same under every seed: several --seeds need a --temperature")


def parser() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(
        prog="mooring bench quality", description="Measure what profiles do to a served model.", allow_abbrev=False
    )
    own.add_argument("url", metavar="URL", help="of the server: http://HOST:PORT")
    own.add_argument(
        "--arms", type=names, metavar="A,B", help="profiles to measure; without it, all that are listed"
    )
    own.add_argument(
        "--prompts",
        nargs="+",
        metavar="demo|general|FILE",
        help="JSONL files, or sets that are there; without it, demo for the embedded demo, else general",
    )
    own.add_argument("--tasks", metavar="A,B", help="of lm-eval besides: ifeval,gsm8k,mmlu_pro,eq_bench, or any others")
    own.add_argument("--tasks-from", type=Path, metavar="FOLDER", help="with tasks of your own")
    own.add_argument("--lm-eval", metavar="PYTHON", default=sys.executable, help="that has lm-eval")
    own.add_argument("--margin", type=float, default=0.03, help="tolerable loss, share of a range (%(default)s)")
    own.add_argument("--judge", metavar="URL", help="the endpoint of a model that judges, for prompts that want one")
    own.add_argument("--judge-model", metavar="NAME", help="its name; without it, the first that the endpoint lists")
    own.add_argument("--model", help="name of the model; without it, the first that the server lists")
    own.add_argument("--seed", type=int, default=SEED, help="of the demo's items and of the bootstrap (%(default)s)")
    own.add_argument("--seeds", type=numbers, metavar="A,B", help="of the answers: ask every prompt once under each")
    own.add_argument("--temperature", type=not_negative, default=0.0, metavar="T", help="of the answers (%(default)s)")
    own.add_argument("--limit", type=count, metavar="N", help="ask only the first N prompts of every set")
    own.add_argument("--max-tokens", type=count, metavar="N", help="of an answer; 96 for the demo's sets, else 512")
    own.add_argument("--concurrency", type=count, default=32, metavar="N", help="requests at a time (%(default)s)")
    own.add_argument(
        "--note", metavar="TEXT", help="how the server was started, which nobody can ask it; kept with the result"
    )
    own.add_argument("--out", type=Path, metavar="FILE", help="write the JSON document there, and the card beside it")
    own.add_argument("--answers", type=Path, metavar="FILE", help="write every answer there, as JSONL")
    return own


def measure(options: argparse.Namespace, served: Served, prompts: Sequence[Prompt], judge: str | None) -> Run:
    """Ask everything, and have it judged; what stops it is kept in the run."""
    run = Run(total=len(prompts) * len(served.arms) * len(_seeds(options)))
    if options.out is not None:
        run.added = saving(lambda: save(options.out, result_of(options, served, prompts, run, "it is still running")))
    try:
        asyncio.run(ask_all(options.url, served, prompts, _limits(options), run))
        if judge is not None:
            verdicts.judge(run.records, options.judge, judge)
    except KeyboardInterrupt:
        run.stopped = INTERRUPTED
    return run


def saving(write: Callable[[], None]) -> Callable[[], None]:
    """Writes now and then: every SAVE_SECONDS at most, and in a twentieth of the time at most."""
    due = time.monotonic() + SAVE_SECONDS

    def added() -> None:
        nonlocal due
        if (began := time.monotonic()) >= due:
            write()
            ended = time.monotonic()
            due = ended + max(SAVE_SECONDS, 20 * (ended - began))

    return added


def _limits(options: argparse.Namespace) -> Limits:
    usual = MAX_TOKENS_DEMO if options.prompts == [DEMO] else MAX_TOKENS
    tokens = options.max_tokens or usual
    return Limits(tokens, options.concurrency, options.seed, _seeds(options), options.temperature)


def _seeds(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(options.seeds or (options.seed,))


def _judge(options: argparse.Namespace, prompts: Sequence[Prompt]) -> str | None:
    """The model that judges, if prompts want one."""
    if not any(isinstance(prompt.expect, ModelJudge) for prompt in prompts):
        return None
    if options.judge is None:
        raise CannotMeasure("prompts name the judge 'model': say which with --judge URL")
    return verdicts.check(options.judge, options.judge_model)


def _task_options(options: argparse.Namespace) -> tasks.Options:
    return tasks.Options(
        options.tasks, options.lm_eval, options.tasks_from, options.limit, options.concurrency, options.seed
    )


def _tasks(options: argparse.Namespace, served: Served, result: dict[str, Any], version: str) -> dict[str, Any]:
    """What lm-eval finds; why it stopped, where it did."""
    found: dict[str, tasks.Found] = {}
    stopped = None
    try:
        tasks.measure(options.url, served, _task_options(options), found)
    except CannotMeasure as error:
        stopped = str(error)
    except KeyboardInterrupt:
        stopped = INTERRUPTED
    summary = tasks.summarise(found, result["reference"], options.margin, options.seed)
    return {"lm_eval": version, "names": options.tasks, "stopped": stopped, "found": summary}


def result_of(
    options: argparse.Namespace, served: Served, prompts: Sequence[Prompt], run: Run, stopped: str | None = None
) -> dict[str, Any]:
    """The whole result; `stopped` says why it is not whole, where the run itself does not."""
    arms, stopped = [arm.name for arm in served.arms], run.stopped or stopped
    summary = summarise(Judged(run.records, arms), options.seed)
    return {
        "benchmark": "quality",
        "partial": stopped is not None,
        "stopped": stopped,
        "asked": run.total,
        "records": len(run.records),
        "where": where(),
        "note": options.note,
        "server": {
            "model": served.model,
            **served.identity._asdict(),
            "vllm": served.version,
            "default": served.default,
            "arms": arms,
        },
        "settings": {
            "seed": options.seed,
            "prompts": [Path(name).name for name in options.prompts],
            "sets": made_of(prompts),
            "seeds": _seeds(options),
            "temperature": options.temperature,
            "max_tokens": _limits(options).max_tokens,
            "concurrency": options.concurrency,
            "judge": options.judge,
            "resamples": paired.RESAMPLES,
        },
        **summary,
        "targets": targets.plain(targets.targets(summary, arms, served.default)),
    }


def publish(options: argparse.Namespace, result: dict[str, Any], records: Sequence[Record]) -> None:
    text = card(result)
    if options.out is not None:
        save(options.out, result)
        options.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    if options.answers is not None:
        options.answers.write_text("".join(_answer_lines(records)), encoding="utf-8")
    print(text)
    print(json.dumps(result, separators=(",", ":")), flush=True)


def _answer_lines(records: Sequence[Record]) -> Iterator[str]:
    for record in sorted(records, key=lambda r: (r.prompt.set, r.prompt.id, r.seed, r.arm)):
        told = {
            "set": record.prompt.set,
            "id": record.prompt.id,
            "profile": record.arm,
            "seed": record.seed,
            "messages": [message.model_dump() for message in record.prompt.messages],
            "answers": [reply.text for reply in record.replies],
            "ended": [reply.ended for reply in record.replies],
            "mooring": [reply.reading for reply in record.replies],
            "failed": record.failed,
            "outcomes": outcomes(record),
        }
        yield json.dumps(told, ensure_ascii=False) + "\n"
