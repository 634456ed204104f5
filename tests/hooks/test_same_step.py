"""Requests with one prompt that start in the same step: vLLM shares blocks between them that this step only fills.

Its scheduler counts a block as cached as soon as it is allocated, and every layer writes a step's keys and values
before it reads them. So a request may be given a block whose owner has no row in it before this very step.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from engines import Engine
from parity import layer_set_profiles
from tiny import Replay, median_projections, prompts, random_axis

pytestmark = pytest.mark.engine


def test_equal_prompts_in_one_step_are_answered_alike(tiny_model: Callable[[str], Path]) -> None:
    folder, axis = tiny_model("qwen3"), random_axis()
    (text,) = prompts(1, seed=2)
    long = (text * 100)[:80]  # two blocks of 32, and a rest
    profiles = layer_set_profiles(axis, median_projections(Replay(folder, axis), [text]))
    engine = Engine(folder, list(profiles.values()), default="off", dtype="float32")
    try:
        answers = engine.answer([long, long, long], "several")
        assert len({tuple(answer.outputs[0].token_ids) for answer in answers}) == 1
        assert any(answer.num_cached_tokens for answer in answers)
    finally:
        engine.close()
