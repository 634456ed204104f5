"""Profiles for parity tests, and the comparison of an engine's answers with the plain replay."""

from collections.abc import Sequence
from typing import Any

import torch

from engines import logprobs_of
from mooring_axes.artifact import Axis
from mooring_axes.profiles import Profile, ResolvedProfile, off_profile, resolve
from tiny import Replay, Replayed


def layer_set_profiles(axis: Axis, floors: Sequence[float]) -> dict[str, ResolvedProfile]:
    """One layer, several, all, the last; the other remaps; and `response`. `floors`: one per layer of the model."""
    n = axis.n_layers
    sets = {"one": [2], "several": list(range(2, n - 1)), "all": list(range(n)), "last": [n - 1]}
    written: list[dict[str, Any]] = [
        {"name": name, "layers": layers, "floor": [floors[layer] for layer in layers]} for name, layers in sets.items()
    ]
    several = sets["several"]
    written += [
        {"name": "ceiling", "layers": several, "ceiling": [floors[layer] for layer in several]},
        {"name": "steer", "layers": several, "shift": 0.5, "scale": 0.25},
        {"name": "ablate", "layers": several, "scale": 0.0},
        {
            "name": "response",
            "layers": several,
            "floor": [floors[layer] for layer in several],
            "positions": "response",
        },
        {"name": "hidden", "layers": [1], "floor": floors[1], "selectable": False},
    ]
    profiles = [off_profile(axis), *(resolve(Profile.model_validate(p), axis) for p in written)]
    return {profile.name: profile for profile in profiles}


def replay_answer(replay: Replay, output: Any, profile: ResolvedProfile | None) -> Replayed:
    """The replay over prompt and answer of an engine's output."""
    tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
    return replay.run(tokens, profile, len(output.prompt_token_ids))


def greedy_tokens(replayed: Replayed, output: Any) -> list[int]:
    """What the replay would have generated at every step of the engine's answer."""
    start = len(output.prompt_token_ids) - 1
    count = len(output.outputs[0].token_ids)
    return replayed.logprobs[start : start + count].argmax(-1).tolist()


def logprob_gap(replayed: Replayed, output: Any) -> float:
    """Largest |d logprob| over the generated tokens."""
    start = len(output.prompt_token_ids) - 1
    tokens = torch.tensor(output.outputs[0].token_ids)
    wanted = replayed.logprobs[start : start + len(tokens)].gather(1, tokens[:, None])[:, 0]
    return float((wanted - torch.tensor(logprobs_of(output))).abs().max())


def projection_gap(replayed: Replayed, output: Any) -> float:
    """Largest |d projection| over the sites and positions of an engine's reading."""
    reading = output.reading
    return max(
        float((replayed.projections[layer][reading["positions"]] - torch.tensor(values)).abs().max())
        for layer, values in reading["projections"].items()
    )


def readings_gap(replayed: Replayed, output: Any, layers: Sequence[int]) -> float:
    """Largest |d projection| / max(1, |projection|) over the generated positions and sites that were sent; every
    position must be there, once and in its place."""
    (rows,) = output.rows
    start, count = len(output.prompt_token_ids), len(output.outputs[0].token_ids) - 1
    assert rows.index.tolist() == list(range(count))
    wanted = torch.stack([replayed.projections[layer][start : start + count] for layer in layers])
    return float(((wanted - torch.tensor(rows.projections)).abs() / wanted.abs().clamp(min=1)).max())


def lifted_share(output: Any) -> float:
    """Share of (capped layer, position) rows that the cap moved."""
    lifts = [lift for values in output.reading["lifts"].values() if any(values) for lift in values]
    return sum(lift != 0 for lift in lifts) / max(len(lifts), 1)
