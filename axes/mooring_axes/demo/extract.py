"""Extract the demo model's axis, by the paper's definitions.

    axis[L]     mean(default answers) - mean(fully role-playing answers), then made a unit row; its length is kept
    answer      the mean, over its generated tokens, of the post-MLP stream that leaves layer L (0-based)
    default     the five default system prompts and none, on open questions
    role        personas of the training split on the same kind of questions; only answers that the rule in
                judge.py calls role-playing count for the axis, all of them for the percentiles "all"

Answers are sampled at temperature 0.7, as the authors do. The monitored layer is the one before the first
capped layer, provided it separates default from role answers with an area under the curve of MONITOR_AUC.

Source: Lu et al. 2026, arXiv:2601.10387.
"""

from typing import NamedTuple

import numpy as np
import torch

from mooring_axes.artifact import Axis, Percentiles, Recommended
from mooring_axes.demo import MODEL_NAME, items, judge, replay
from mooring_axes.demo.replay import Demo

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
CAPPED_LAYERS = "4:7"
FLOOR = "default_p25"
MONITORED_LAYER = 3
MONITOR_AUC = 0.95
ANSWERS = 400


class Rollouts(NamedTuple):
    """Mean streams (n_answers, n_layers, hidden) of answers, and which role answers fully play their role."""

    default: torch.Tensor
    role: torch.Tensor
    plays: torch.Tensor


def rollouts(demo: Demo, seed: int, answers: int = ANSWERS) -> Rollouts:
    default = replay.answer(demo, [i.messages for i in items.default_answers("train", answers, seed)], 0.7, seed)
    role = replay.answer(demo, [i.messages for i in items.role_play("train", answers, seed)], 0.7, seed)
    default, role = [a for a in default if a.ids], [a for a in role if a.ids]
    plays = torch.tensor([judge.plays(a.text) for a in role])
    return Rollouts(replay.mean_streams(demo, default), replay.mean_streams(demo, role), plays)


def axis_of(found: Rollouts, provenance: dict[str, str]) -> Axis:
    raw = found.default.mean(0) - found.role[found.plays].mean(0)
    directions = torch.nn.functional.normalize(raw, dim=-1)
    default, role = project(found.default, directions), project(found.role[found.plays], directions)
    everything = torch.cat([default, project(found.role, directions)])
    aucs = [auc(default[:, layer], role[:, layer]) for layer in range(raw.shape[0])]
    if aucs[MONITORED_LAYER] < MONITOR_AUC:
        print(f"layer {MONITORED_LAYER} separates default from role answers with {aucs[MONITORED_LAYER]:.3f} only")
    return Axis(
        directions=_array(directions),
        norms=_array(raw.norm(dim=-1)),
        model=MODEL_NAME,
        monitored_layer=MONITORED_LAYER,
        default_mean=_array(default.mean(0)),
        role_mean=_array(role.mean(0)),
        percentiles={"all": percentiles(everything), "default": percentiles(default)},
        recommended=Recommended(layers=CAPPED_LAYERS, floor=FLOOR),
        provenance={**provenance, "auc": " ".join(f"{a:.3f}" for a in aucs)},
    )


def project(streams: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """(n_answers, n_layers): each answer's mean stream on the axis."""
    return torch.einsum("nld,ld->nl", streams, directions)


def percentiles(projections: torch.Tensor) -> Percentiles:
    values = torch.quantile(projections, torch.tensor(SHARES), dim=0).T
    return Percentiles(shares=np.array(SHARES, dtype=np.float32), values=_array(values))


def auc(above: torch.Tensor, below: torch.Tensor) -> float:
    """Chance that one of `above` is higher than one of `below`, ties halved."""
    pairs = above[:, None] - below[None, :]
    return float(((pairs > 0).float() + 0.5 * (pairs == 0).float()).mean())


def _array(values: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(values.numpy(), dtype=np.float32)
