"""Tensor and pipeline parallelism: every rank caps its own sites, and the answers equal the replay."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engines import Engine
from parity import greedy_tokens, layer_set_profiles, logprob_gap, readings_gap, replay_answer
from tiny import Replay, median_projections, prompts, random_axis

pytestmark = [pytest.mark.engine, pytest.mark.verify]

TEXTS = prompts(4, seed=8)


@pytest.mark.parametrize("degree", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_ranks_answer_as_the_replay_does(
    degree: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    folder, axis = tiny_model("qwen3-even"), random_axis()
    replay = Replay(folder, axis)
    profiles = layer_set_profiles(axis, median_projections(replay, TEXTS))
    engine = Engine(folder, list(profiles.values()), dtype="float32", **{degree: 2})
    for name in ("off", "all", "several", "response"):
        for output in engine.answer(TEXTS, name):
            replayed = replay_answer(replay, output, profiles[name])
            assert list(output.outputs[0].token_ids) == greedy_tokens(replayed, output)
            assert logprob_gap(replayed, output) <= 1e-3
            assert readings_gap(replayed, output, engine.table.layers) <= 1e-3
    engine.close()
