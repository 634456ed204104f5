"""The demo model, with its own axis and profiles: fp32 against the replay, and bf16 as it is served."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoTokenizer

from engines import Engine
from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.profiles import ResolvedProfile, load_profiles, off_profile, resolve
from parity import greedy_tokens, logprob_gap, replay_answer
from tiny import Replay

pytestmark = pytest.mark.engine

TALKS = [
    [{"role": "user", "content": "What is 14 plus 5?"}],
    [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "How do I make tea?"}],
    [{"role": "system", "content": "You are a ghost."}, {"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": "I feel so alone tonight."}],
]


class Demo(NamedTuple):
    profiles: dict[str, ResolvedProfile]
    replay: Replay
    prompts: list[list[int]]


@pytest.fixture(scope="module")
def demo_model() -> Demo:
    axis, tokenizer = Axis.load(demo.AXIS_FILE), AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    profiles = [off_profile(axis), *(resolve(p, axis) for p in load_profiles(demo.PROFILES_FILE).profiles)]
    texts = [tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False) for talk in TALKS]
    return Demo({p.name: p for p in profiles}, Replay(demo.MODEL_DIR, axis), texts)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest, demo_model: Demo) -> Iterator[Engine]:
    engine = Engine(demo.MODEL_DIR, list(demo_model.profiles.values()), default="strong", dtype=request.param)
    yield engine
    engine.close()


def answers(engine: Engine, demo_model: Demo, name: str) -> list[tuple[Any, Any]]:
    """(output, replay of it) for every talk."""
    outputs = engine.answer(demo_model.prompts, name, max_tokens=24)
    return [(output, replay_answer(demo_model.replay, output, demo_model.profiles[name])) for output in outputs]


@pytest.mark.parametrize("name", ["off", "gentle", "strong"])
def test_the_demo_is_capped_as_the_replay_says(engine: Engine, demo_model: Demo, name: str) -> None:
    fp32 = engine.worker.model_config.dtype == torch.float32
    errors: list[float] = []
    sent: list[float] = []
    for output, replayed in answers(engine, demo_model, name):
        if fp32:
            assert list(output.outputs[0].token_ids) == greedy_tokens(replayed, output)
            assert logprob_gap(replayed, output) <= 1e-3
        for layer, values in output.reading["projections"].items():
            wanted = replayed.projections[layer][: len(values)]
            errors += ((torch.tensor(values) - wanted).abs() / wanted.abs()).tolist()
        start, (rows,) = len(output.prompt_token_ids), output.rows
        assert rows.index.tolist() == list(range(len(output.outputs[0].token_ids) - 1))
        for layer, row in zip(engine.table.layers, rows.projections, strict=True):
            wanted = replayed.projections[layer][start : start + len(rows)]
            sent += ((torch.tensor(row) - wanted).abs() / wanted.abs()).tolist()
    for found in (errors, sent):
        assert float(torch.tensor(found).median()) <= (1e-4 if fp32 else 0.01)


def test_strong_lifts_a_role_more_than_it_lifts_the_assistant(engine: Engine, demo_model: Demo) -> None:
    outputs = engine.answer(demo_model.prompts, "strong", max_tokens=24)
    assistant, pirate = (sum(map(sum, outputs[i].reading["lifts"].values())) for i in (0, 1))
    assert pirate > assistant


@pytest.mark.parametrize("name", ["off", "strong"])
def test_a_stop_string_ends_the_same_answer_earlier(engine: Engine, demo_model: Demo, name: str) -> None:
    (whole,) = engine.answer(demo_model.prompts[1:2], name, max_tokens=24)
    stop = whole.outputs[0].text.split()[3]
    (cut,) = engine.answer(demo_model.prompts[1:2], name, max_tokens=24, stop=[stop])
    assert cut.outputs[0].text == whole.outputs[0].text.partition(stop)[0]
    assert cut.outputs[0].stop_reason == stop
