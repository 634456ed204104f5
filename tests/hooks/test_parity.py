"""The served model equals the paper's operation: plain forward hooks on the transformers model, in fp32."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from engines import Engine
from mooring_axes.profiles import ResolvedProfile
from parity import greedy_tokens, layer_set_profiles, lifted_share, logprob_gap, projection_gap, replay_answer
from tiny import Replay, median_projections, prompts, random_axis

pytestmark = pytest.mark.engine

TOLERANCE = 1e-3
TABLE = ["qwen3", "llama", "gemma2", "cohere"]
FAMILY = ["qwen2", "mistral", "gpt2"]


class Bench(NamedTuple):
    engine: Engine
    replay: Replay
    profiles: dict[str, ResolvedProfile]
    prompts: list[list[int]]


@pytest.fixture(scope="module", params=[*TABLE, *(pytest.param(kind, marks=pytest.mark.verify) for kind in FAMILY)])
def bench(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Iterator[Bench]:
    """One start of the model; floors at each layer's median, so that about half of the rows are lifted."""
    folder, axis = tiny_model(request.param), random_axis()
    replay, texts = Replay(folder, axis), prompts(6)
    profiles = layer_set_profiles(axis, median_projections(replay, texts))
    engine = Engine(folder, list(profiles.values()), dtype="float32")
    yield Bench(engine, replay, profiles, texts)
    engine.close()


@pytest.mark.parametrize("name", ["one", "several", "all", "last", "ceiling", "steer", "ablate", "response", "off"])
def test_tokens_logprobs_and_projections_equal_the_replay(bench: Bench, name: str) -> None:
    for output in bench.engine.answer(bench.prompts, name):
        replayed = replay_answer(bench.replay, output, bench.profiles[name])
        assert list(output.outputs[0].token_ids) == greedy_tokens(replayed, output)
        assert logprob_gap(replayed, output) <= TOLERANCE
        assert projection_gap(replayed, output) <= TOLERANCE * 10


@pytest.mark.parametrize("name", ["one", "several", "all", "last"])
def test_a_third_to_two_thirds_of_the_rows_are_lifted(bench: Bench, name: str) -> None:
    shares = [lifted_share(output) for output in bench.engine.answer(bench.prompts, name)]
    assert 1 / 3 <= sum(shares) / len(shares) <= 2 / 3


@pytest.mark.parametrize("name", ["one", "several", "all", "last", "response"])
def test_the_comparison_fails_by_far_when_one_side_is_uncapped(bench: Bench, name: str) -> None:
    capped = bench.engine.answer(bench.prompts, name)
    gaps = [logprob_gap(replay_answer(bench.replay, output, None), output) for output in capped]
    assert max(gaps) > 100 * TOLERANCE
    uncapped = bench.engine.answer(bench.prompts, "off")
    gaps = [logprob_gap(replay_answer(bench.replay, output, bench.profiles[name]), output) for output in uncapped]
    assert max(gaps) > 100 * TOLERANCE


def test_no_row_ends_below_its_floor(bench: Bench) -> None:
    for output in bench.engine.answer(bench.prompts, "all"):
        for layer, change in bench.profiles["all"].remaps.items():
            values = zip(output.reading["projections"][layer], output.reading["lifts"][layer], strict=True)
            assert all(p + lift >= change.floor - 1e-4 for p, lift in values)
