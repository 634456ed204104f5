"""benchmarks/demo_arms.py: controls that are as long as the cap, point elsewhere, and can be served."""

from pathlib import Path

import numpy as np
import pytest
import torch

from demo_arms import SEED, Lifts, controls, mean_lifts, response, turned, write
from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.demo import items, replay
from mooring_axes.profiles import Profile, load_profiles, resolve
from mooring_bench.demo_sets import unseen
from mooring_server.plan import resolve_all

LIFTS = Lifts(everywhere={4: 9.0, 5: 1.5, 6: 0.5}, prompt={4: 13.0, 5: 2.0, 6: 0.75})


@pytest.fixture(scope="module")
def axis() -> Axis:
    return Axis.load(demo.AXIS_FILE)


@pytest.fixture(scope="module")
def strong() -> Profile:
    return next(p for p in load_profiles(demo.PROFILES_FILE).profiles if p.name == "strong")


def test_a_turned_axis_keeps_its_angles_and_points_elsewhere(axis: Axis) -> None:
    random = turned(axis, 1)
    before, after = axis.directions @ axis.directions.T, random.directions @ random.directions.T
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert np.abs((axis.directions * random.directions).sum(1)).max() < 0.3  # 1 / sqrt(192) is 0.07
    assert turned(axis, 1).digest == random.digest != turned(axis, 2).digest


def test_the_folder_can_be_served_and_every_control_pushes_as_far_as_it_says(
    axis: Axis, strong: Profile, tmp_path: Path
) -> None:
    write(tmp_path, axis, load_profiles(demo.PROFILES_FILE), LIFTS, 2)
    file = load_profiles(tmp_path / "profiles.yaml")
    assert (file.default, file.off_selectable) == ("strong", True)
    found = {profile.name: profile for profile in resolve_all(file, axis, tmp_path)}
    assert list(found) == [
        *("off", "gentle", "strong", "response"),
        *("random-1", "random-prompt-1", "random-2", "random-prompt-2"),
    ]
    assert found["strong"].digest == resolve(strong, axis).digest
    assert found["response"].positions == "response" and found["response"].remaps == found["strong"].remaps
    for name, lifts in (("random-1", LIFTS.everywhere), ("random-prompt-2", LIFTS.prompt)):
        assert {layer: remap.shift for layer, remap in found[name].remaps.items()} == lifts
    assert found["random-1"].axis.digest == found["random-prompt-1"].axis.digest != axis.digest


def test_a_control_is_named_so_that_the_targets_find_it(strong: Profile) -> None:
    assert [profile.name for profile in controls(3, LIFTS)] == ["random-3", "random-prompt-3"]
    assert response(strong).name == "response"


def test_the_lift_is_what_the_cap_adds(axis: Axis, strong: Profile) -> None:
    torch.set_num_threads(1)
    toy, profile = replay.load(demo.MODEL_DIR), resolve(strong, axis)
    asked = unseen(items.jailbreaks, 3, SEED)
    found = mean_lifts(toy, profile, asked)
    directions = torch.from_numpy(axis.directions.copy())
    floors = {layer: remap.floor for layer, remap in profile.remaps.items()}
    with replay.capped(toy, directions, floors):
        texts = [a.prompt + a.ids for a in replay.answer(toy, [item.messages for item in asked])]
        capped = torch.cat([_projections(toy, directions[4], 4, ids) for ids in texts])
    uncapped = torch.cat([_projections(toy, directions[4], 4, ids) for ids in texts])
    # Nothing is lifted before layer 4, so there the uncapped stream is what the cap finds.
    assert float((capped - uncapped).mean()) == pytest.approx(found.everywhere[4], abs=1e-3)
    assert found.prompt[4] > found.everywhere[4] > found.everywhere[5] > 0


def _projections(toy: replay.Demo, direction: torch.Tensor, layer: int, ids: list[int]) -> torch.Tensor:
    """(tokens,) of what leaves the layer, the cap included."""
    seen: list[torch.Tensor] = []
    handle = toy.layers[layer].register_forward_hook(lambda module, args, h: seen.append(h[0] @ direction))
    try:
        with torch.inference_mode():
            toy.model.model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        handle.remove()
    return seen[0]
