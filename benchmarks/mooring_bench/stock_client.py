"""Blocks of one-turn load, sent by vLLM's own `vllm bench serve` in this process.

Its prompts are random tokens of a fixed number, or a ShareGPT file's; equal seeds make equal prompts. Answers are
greedy, and to random prompts always as long as was asked for.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from mooring_bench.arms import Arm
from mooring_bench.asking import URL_KEY
from mooring_bench.heard import Heard
from mooring_bench.prompts import CannotMeasure

RANDOM: Final = "random"


class OneTurn(NamedTuple):
    """What every request asks for."""

    tokenizer: str
    input_tokens: int
    output_tokens: int
    sharegpt: str | None = None
    """A file; None makes random prompts."""

    def send(self, arm: Arm, requests: int, concurrency: int, seed: int, salt: str) -> Heard:
        """One arm alone."""
        header = [word for name, value in arm.headers.items() for word in ("--header", f"{name}={value}")]
        (heard,) = split(self._run(arm, requests, concurrency, seed, [*_salted(salt), *header]), 1)
        return heard

    def send_mixed(self, arms: Sequence[Arm], requests: int, concurrency: int, seed: int, salt: str) -> list[Heard]:
        """All arms of one server at once, in turn; `requests` of each, and no prompt is given to two."""
        names = ["--lora-modules", *(arm.alias for arm in arms), "--lora-assignment", "round-robin"]
        result = self._run(arms[0], requests * len(arms), concurrency, seed, [*_salted(salt), *names])
        return split(result, len(arms))

    def _run(self, arm: Arm, requests: int, concurrency: int, seed: int, more: Sequence[str]) -> dict[str, Any]:
        words = [
            "--backend", "openai", "--endpoint", "/v1/completions", "--base-url", arm.base, "--model", arm.model,
            "--tokenizer", self.tokenizer, "--num-prompts", str(requests), "--max-concurrency", str(concurrency),
            "--seed", str(seed), "--temperature", "0", "--disable-tqdm", "--ready-check-timeout-sec", "0",
            "--percentile-metrics", "ttft,tpot,itl,e2el", "--save-detailed", *self._data(), *more,
        ]  # fmt: skip
        client, parser = _client()
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), _key_of(arm):
                result: dict[str, Any] = asyncio.run(client(parser.parse_args(words)))
        except (ValueError, OSError) as error:
            raise CannotMeasure(f"vllm bench serve could not run: {error}") from None
        return result

    def _data(self) -> list[str]:
        if self.sharegpt is not None:
            limit = ["--sharegpt-output-len", str(self.output_tokens)] if self.output_tokens else []
            return ["--dataset-name", "sharegpt", "--dataset-path", self.sharegpt, *limit]
        sizes = ["--random-input-len", str(self.input_tokens), "--random-output-len", str(self.output_tokens)]
        return ["--dataset-name", RANDOM, *sizes]


def _salted(salt: str) -> list[str]:
    return ["--extra-body", json.dumps({"cache_salt": salt})]


@contextlib.contextmanager
def _key_of(arm: Arm) -> Iterator[None]:
    """vLLM's client sends OPENAI_API_KEY to every server: let it be that of this arm's."""
    kept, own = os.environ.get(URL_KEY), os.environ.get(arm.key)
    _set_key(own)
    try:
        yield
    finally:
        _set_key(kept)


def _set_key(value: str | None) -> None:
    os.environ.pop(URL_KEY, None)
    if value is not None:
        os.environ[URL_KEY] = value


@cache
def _client() -> Any:
    """(vLLM's function, its parser); importing them takes seconds."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm.benchmarks.serve import add_cli_args, main_async
    except ImportError as error:
        raise CannotMeasure(f"`mooring bench load` runs vLLM's own client, which cannot be imported: {error}") from None
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    return main_async, parser


def split(result: dict[str, Any], arms: int) -> list[Heard]:
    """vLLM's result by arm: request i is of arm i modulo their number."""
    found = [Heard(seconds=result["duration"]) for _ in range(arms)]
    columns = (result[name] for name in ("errors", "output_lens", "ttfts", "itls", "latencies"))
    for number, (error, tokens, first, gaps, whole) in enumerate(zip(*columns, strict=True)):
        heard = found[number % arms]
        if error or not tokens:
            heard.errors.append(_short(error) or "an answer without a token")
        else:
            heard.answered(tokens, first, gaps, whole)
    return found


def _short(error: str) -> str:
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
