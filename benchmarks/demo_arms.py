"""More arms for the demo: the strong cap on generated tokens alone, and pushes along random directions.

    python benchmarks/demo_arms.py FOLDER
    mooring serve demo --profiles FOLDER/profiles.yaml

FOLDER then holds
    profiles.yaml               the demo's own profiles, then
        response                `strong` with `positions: response`
        random-1 ...            a shift along an axis of their own, on the layers of `strong`: the mean lift that
                                `strong` makes there over all positions
        random-prompt-1 ...     the same with the mean lift over the prompts' positions alone, which is larger
    random-N.safetensors        the demo's directions, all turned by one random rotation
    displacement.json           both mean lifts by layer, and from what they were measured

The lifts are those of `strong` on the benchmark's own jailbreaks and its answers to them, measured here in plain
transformers:

    lift = max(floor - p, 0)        p = <h, v>, after what earlier layers were lifted

A rotation keeps the angles between the layers' directions, so pushes add up along the way as those of the cap do. A
shift is the same at every position, where the cap lifts prompts far more than the refusals that follow. So `random`
matches the mean and pushes less than the cap while the prompt is read, when the persona is settled;
`random-prompt` matches it there and pushes more everywhere else.
Random axes hold no means, so answers under these profiles read no drift.

The demo was trained under random pushes (its README says why), so this control says that the cap is more than a
nudge; it does not say how another model would take one.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import yaml

from mooring_axes import demo
from mooring_axes.artifact import Axis
from mooring_axes.demo import items, replay
from mooring_axes.demo.corpus import Item
from mooring_axes.profiles import Profile, ProfileFile, ResolvedProfile, load_profiles, resolve
from mooring_bench.demo_sets import SEED, Sizes, unseen

MATCHED: Final = "strong"
RESPONSE: Final = "response"
CONTROLS: Final = 3


class Lifts(NamedTuple):
    """Layer -> mean lift, in residual-stream units."""

    everywhere: dict[int, float]
    prompt: dict[int, float]


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(1)
    axis, file = Axis.load(demo.AXIS_FILE), load_profiles(demo.PROFILES_FILE)
    matched = next(profile for profile in file.profiles if profile.name == MATCHED)
    jailbreaks = unseen(items.jailbreaks, options.jailbreaks, options.seed)
    lifts = mean_lifts(replay.load(demo.MODEL_DIR), resolve(matched, axis), jailbreaks)
    write(options.folder, axis, file, lifts, options.controls)
    displacement = {"matched": MATCHED, "jailbreaks": len(jailbreaks), "seed": options.seed, **lifts._asdict()}
    (options.folder / "displacement.json").write_text(json.dumps(displacement, indent=2) + "\n", encoding="utf-8")
    print(f"mooring serve demo --profiles {options.folder / 'profiles.yaml'}")
    print(json.dumps(displacement))


def parser() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(description="Make a profile file with control arms for the demo.")
    own.add_argument("folder", type=Path, metavar="FOLDER", help="where to write; made if it is not there")
    own.add_argument("--controls", type=int, default=CONTROLS, help="random directions (%(default)s)")
    own.add_argument("--jailbreaks", type=int, default=Sizes().jailbreaks, help="to measure the lift on (%(default)s)")
    own.add_argument("--seed", type=int, default=SEED, help="of the jailbreaks, as in `bench quality` (%(default)s)")
    return own


def axis_file(number: int) -> str:
    return f"random-{number}.safetensors"


def turned(axis: Axis, seed: int) -> Axis:
    """The axis after one random rotation of the residual stream."""
    drawn = np.random.default_rng(seed).standard_normal((axis.hidden_size, axis.hidden_size))
    rotation = np.linalg.qr(drawn).Q
    return Axis(
        directions=(axis.directions @ rotation).astype(np.float32),
        norms=axis.norms,
        model=axis.model,
        monitored_layer=axis.monitored_layer,
        provenance={"made_by": "benchmarks/demo_arms.py", "rotation_seed": str(seed), "of": axis.digest},
    )


def response(profile: Profile) -> Profile:
    told = "The strong cap on generated tokens alone; the prompt is read uncapped."
    return profile.model_copy(update={"name": RESPONSE, "positions": "response", "description": told})


def controls(number: int, lifts: Lifts) -> list[Profile]:
    """Both pushes along the direction of this number."""
    return [
        _push(f"random-{number}", number, lifts.everywhere, "all positions"),
        _push(f"random-prompt-{number}", number, lifts.prompt, "the prompts' positions"),
    ]


def _push(name: str, number: int, lifts: Mapping[int, float], where: str) -> Profile:
    return Profile(
        name=name,
        axis=axis_file(number),
        layers=tuple(sorted(lifts)),
        shift=tuple(lifts[layer] for layer in sorted(lifts)),
        description=f"A control: the mean lift of {MATCHED} over {where}, along a random direction.",
    )


# --- what the cap displaces ----------------------------------------------------------------------


def mean_lifts(toy: replay.Demo, profile: ResolvedProfile, asked: Sequence[Item]) -> Lifts:
    """Under the cap, over prompts and greedy answers."""
    directions = torch.from_numpy(profile.axis.directions.copy())
    floors = {layer: remap.floor for layer, remap in profile.remaps.items()}
    with replay.capped(toy, directions, floors):
        answers = replay.answer(toy, [item.messages for item in asked])
    found = [_lifts(toy, directions, floors, answer.prompt + answer.ids) for answer in answers]
    prompts = [of[:, : len(answer.prompt)] for of, answer in zip(found, answers, strict=True)]
    return Lifts(_mean(floors, found), _mean(floors, prompts))


def _lifts(toy: replay.Demo, directions: torch.Tensor, floors: Mapping[int, float], ids: list[int]) -> torch.Tensor:
    """(capped layers, tokens): the lift at every position of one text."""
    lifts: list[torch.Tensor] = []

    def record(layer: int) -> torch.utils.hooks.RemovableHandle:
        def hook(module: torch.nn.Module, args: object, h: torch.Tensor) -> None:
            lifts.append((floors[layer] - h[0] @ directions[layer]).clamp(min=0.0))

        return toy.layers[layer].register_forward_hook(hook)

    handles = [record(layer) for layer in sorted(floors)]  # ahead of the cap's own hooks: p is read before the lift
    try:
        with replay.capped(toy, directions, floors), torch.inference_mode():
            toy.model.model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(lifts)


def _mean(floors: Mapping[int, float], lifts: Sequence[torch.Tensor]) -> dict[int, float]:
    means = torch.cat(list(lifts), dim=1).mean(1).tolist()
    return {layer: round(mean, 5) for layer, mean in zip(sorted(floors), means, strict=True)}


# --- files ---------------------------------------------------------------------------------------


def write(folder: Path, axis: Axis, file: ProfileFile, lifts: Lifts, count: int) -> None:
    """The axes, and the profile file that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(1, count + 1)
    for number in numbers:
        turned(axis, number).save(folder / axis_file(number))
    matched = next(profile for profile in file.profiles if profile.name == MATCHED)
    added = [response(matched), *(profile for number in numbers for profile in controls(number, lifts))]
    profiles = [_written(profile) for profile in (*file.profiles, *added)]
    data = {"default": file.default, "off_selectable": True, "profiles": profiles}
    (folder / "profiles.yaml").write_text(yaml.safe_dump(data, sort_keys=False, width=120), encoding="utf-8")


def _written(profile: Profile) -> dict[str, Any]:
    """As a profile file has it: only what is not the default."""
    told = profile.model_dump(exclude_defaults=True)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}


if __name__ == "__main__":
    main()
