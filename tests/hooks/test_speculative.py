"""Speculative decoding: several rows of one request in a decode step, some of them rejected."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engines import Engine
from parity import greedy_tokens, layer_set_profiles, logprob_gap, readings_gap, replay_answer
from tiny import Replay, median_projections, prompts, random_axis

pytestmark = [pytest.mark.engine, pytest.mark.verify]


def test_drafted_tokens_are_capped_like_any_other(tiny_model: Callable[[str], Path]) -> None:
    folder, axis = tiny_model("qwen3"), random_axis()
    texts = [text * 3 for text in prompts(4, seed=9, lengths=(8, 12))]  # repetition, so that n-grams are found
    replay = Replay(folder, axis)
    profiles = layer_set_profiles(axis, median_projections(replay, texts))
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    engine = Engine(folder, list(profiles.values()), dtype="float32", speculative_config=ngram)
    for name in ("off", "all", "several", "response"):
        for output in engine.answer(texts, name, max_tokens=30):
            replayed = replay_answer(replay, output, profiles[name])
            assert list(output.outputs[0].token_ids) == greedy_tokens(replayed, output)
            assert logprob_gap(replayed, output) <= 1e-3
            assert readings_gap(replayed, output, engine.table.layers) <= 1e-3
    drafted = sum(m.value for m in engine.llm.get_metrics() if m.name == "vllm:spec_decode_num_draft_tokens")
    assert drafted > 0
    engine.close()
