"""The kernel inside vLLM's compiled graph, on the CPU under Triton's interpreter (test_kernel.py runs it)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines import Engine
from mooring_hooks.sites import OneLaunch
from parity import greedy_tokens, layer_set_profiles, lifted_share, logprob_gap, projection_gap, replay_answer
from tiny import Replay, median_projections, prompts, random_axis

TOLERANCE = 1e-3
NAMES = ["several", "off", "one", "ceiling", "steer", "ablate", "response"]


@pytest.mark.parametrize("kind", ["qwen3", pytest.param("gemma2", marks=pytest.mark.verify)])
def test_answers_equal_the_replay_in_a_mixed_batch(
    kind: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, axis = tiny_model(kind), random_axis()
    replay, texts = Replay(folder, axis), prompts(len(NAMES))
    made = layer_set_profiles(axis, median_projections(replay, texts))
    profiles = {name: made[name] for name in ("off", *(name for name in NAMES if name != "off"))}
    small = {"max_num_batched_tokens": 64, "max_num_seqs": 8}  # every row takes milliseconds
    engine = Engine(folder, list(profiles.values()), dtype="float32", kernel="triton", **small)
    sites = engine.worker.capping.sites
    assert sites and all(isinstance(site.module, OneLaunch) for site in sites)

    def python_ran(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the norm's Python ran: the model is not compiled")

    monkeypatch.setattr(OneLaunch, "forward", python_ran)
    outputs = engine.answer(texts, NAMES, max_tokens=6)
    engine.close()
    for name, output in zip(NAMES, outputs, strict=True):
        replayed = replay_answer(replay, output, profiles[name])
        assert list(output.outputs[0].token_ids) == greedy_tokens(replayed, output)
        assert logprob_gap(replayed, output) <= TOLERANCE
        assert projection_gap(replayed, output) <= TOLERANCE * 10
    assert 1 / 3 <= lifted_share(outputs[0]) <= 2 / 3
