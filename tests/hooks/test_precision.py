"""bf16, as models are served, beside stock vLLM; and that it is the compiled graph that runs."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from engines import Engine, close, logprobs_of, sampling_params, stock_engine
from mooring_hooks.sites import CappedRMSNorm
from parity import layer_set_profiles
from tiny import Replay, make_model, median_projections, prompts, random_axis

pytestmark = pytest.mark.engine

TEXTS = prompts(8, seed=6)


class Bench(NamedTuple):
    engine: Engine
    stock: list[Any]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Weights that bf16 holds exactly, so that the replay in fp32 runs the same model."""
    folder, axis = make_model("qwen3", tmp_path_factory.mktemp("bf16"), torch.bfloat16), random_axis()
    llm = stock_engine(folder, dtype="bfloat16")
    stock = llm.generate([{"prompt_token_ids": t} for t in TEXTS], sampling_params(None, 1, logprobs=5), use_tqdm=False)
    close(llm)
    replay = Replay(folder, axis)
    profiles = layer_set_profiles(axis, median_projections(replay, TEXTS))
    engine = Engine(folder, list(profiles.values()), dtype="bfloat16")
    yield Bench(engine, stock)
    engine.close()


def test_off_is_within_bf16_rounding_of_stock(bench: Bench) -> None:
    ours = bench.engine.answer(TEXTS, "off", max_tokens=1, logprobs=5)
    for one, other in zip(ours, bench.stock, strict=True):
        assert logprobs_of(one) == pytest.approx(logprobs_of(other), abs=2e-2)


def test_the_compiled_graph_runs_and_not_its_python(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def python_ran(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the norm's Python ran: the model is not compiled")

    assert bench.engine.worker.vllm_config.compilation_config.mode != 0
    monkeypatch.setattr(CappedRMSNorm, "forward", python_ran)
    (output,) = bench.engine.answer(TEXTS[:1], "all")
    assert len(output.outputs[0].token_ids) == 12 and any(output.reading["lifts"][2])


def test_readings_of_a_watched_request_cover_every_position_once(bench: Bench) -> None:
    for output in bench.engine.answer(TEXTS, [["off", "all"][i % 2] for i in range(len(TEXTS))]):
        assert output.reading["positions"] == list(range(len(output.prompt_token_ids) + 11))
        assert not any(math.isnan(p) for values in output.reading["projections"].values() for p in values)
