"""Capped generation without a server: the same profiles, checks and readings as over HTTP."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

import engines
from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.errors import CannotServe
from mooring_axes.profiles import ResolvedProfile, load_profiles, off_profile, resolve
from mooring_server.offline import LLM
from tiny import Replay

pytestmark = pytest.mark.engine

TALK = [{"role": role, "content": text} for role, text in zip(("system", "user"), demo.EXAMPLE, strict=True)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    before = dict(os.environ)
    found = LLM("demo", dtype="float32", seed=0)
    yield found
    found._inbox.stop()
    engines.close(found.vllm)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def profiles() -> dict[str, ResolvedProfile]:
    axis = Axis.load(demo.AXIS_FILE)
    found = [off_profile(axis), *(resolve(p, axis) for p in load_profiles(demo.PROFILES_FILE).profiles)]
    return {profile.name: profile for profile in found}


def test_one_talk_under_every_profile_equals_the_replay(llm: LLM, profiles: dict[str, ResolvedProfile]) -> None:
    names = ["off", "gentle", "strong", None]
    outputs = llm.chat([TALK] * 4, GREEDY, profile=names, use_tqdm=False)
    replay = Replay(demo.MODEL_DIR, Axis.load(demo.AXIS_FILE))
    for name, output in zip(names, outputs, strict=True):
        (answer,) = output.outputs
        start, count = len(output.prompt_token_ids), len(answer.token_ids) - 1
        replayed = replay.run([*output.prompt_token_ids, *answer.token_ids], profiles[name or "strong"])
        wanted = torch.stack([replayed.projections[layer][start : start + count] for layer in (3, 4, 5, 6)])
        lifts = torch.stack([replayed.lifts[layer][start : start + count] for layer in (3, 4, 5, 6)])
        reading = answer.mooring
        assert reading.complete and reading.tokens == count
        assert torch.allclose(torch.tensor(reading.projections), wanted, rtol=1e-3, atol=1e-3)
        assert torch.allclose(torch.tensor(reading.lifts), lifts, rtol=1e-3, atol=2e-3)
        assert reading.projection == pytest.approx(float(wanted[0].mean()), abs=1e-3)
    assert outputs[0].outputs[0].text != outputs[2].outputs[0].text == outputs[3].outputs[0].text
    assert outputs[0].outputs[0].mooring.drift > 0.5 and outputs[0].outputs[0].mooring.lifted_share == 0


def test_prompts_of_every_kind_and_several_choices(llm: LLM) -> None:
    several = SamplingParams(n=3, temperature=1.0, max_tokens=6, seed=1)
    for prompts, count in (("The sea", 1), ([5, 6, 7], 1), (["a", "b"], 2), ({"prompt_token_ids": [5, 6]}, 1)):
        outputs: list[Any] = llm.generate(prompts, several, use_tqdm=False)
        assert len(outputs) == count
        for answer in (answer for output in outputs for answer in output.outputs):
            assert answer.mooring.complete and answer.mooring.tokens == len(answer.token_ids) - 1
    assert llm._inbox.waiting == 0


def test_the_default_sampling_parameters_are_the_models_own(llm: LLM) -> None:
    (output,) = llm.chat(TALK, use_tqdm=False)
    assert output.outputs[0].mooring.complete


def test_a_batch_larger_than_the_engines_keeps_every_reading(llm: LLM) -> None:
    parameters = [SamplingParams(temperature=0, max_tokens=1 + i % 40, ignore_eos=True) for i in range(300)]
    names = [["off", "gentle", "strong"][i % 3] for i in range(300)]
    outputs = llm.generate(["The sea"] * 300, parameters, profile=names, use_tqdm=False)
    assert [o.outputs[0].mooring.tokens for o in outputs] == [i % 40 for i in range(300)]
    assert all(o.outputs[0].mooring.complete for o in outputs)


def test_what_may_not_be_chosen_is_refused_and_leaves_nothing_behind(llm: LLM) -> None:
    assert llm.profiles == ["off", "gentle", "strong"]
    with pytest.raises(VLLMValidationError, match="choose one of off, gentle, strong"):
        llm.generate("The sea", GREEDY, profile="nope", use_tqdm=False)
    with pytest.raises(ValueError, match="2 prompts, 1 profiles"):
        llm.generate(["a", "b"], GREEDY, profile=["off"], use_tqdm=False)
    assert llm._inbox.waiting == 0
    assert llm.generate("The sea", GREEDY, use_tqdm=False)[0].outputs[0].mooring.complete


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"axis": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"profiles": "nowhere.yaml"}, "nowhere.yaml"),
        ({"default_profile": "nope"}, "'nope' is not a profile"),
    ],
)
def test_bad_input_is_refused_before_an_engine_starts(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match=reason):
        LLM("demo", **options)
