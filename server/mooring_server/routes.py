"""What the server says about itself: `GET /v1/mooring/profiles`, `GET /v1/mooring/axis`, `GET /v1/mooring/experiment`.

Behind the API key, like everything under /v1.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from mooring_hooks.table import Settings, SlotTable
from mooring_server.assignments import MISMATCH, Assignments

router = APIRouter(prefix="/v1/mooring", tags=["mooring"])


@dataclass(frozen=True, slots=True)
class Served:
    """What one server caps by."""

    settings: Settings
    table: SlotTable


class LayerRemap(BaseModel):
    """What a profile does to the projection p at a layer: clamp(scale * p + shift, floor, ceiling)."""

    scale: float
    shift: float
    floor: float | None = Field(description="lowest projection; null where there is none")
    ceiling: float | None = Field(description="highest projection; null where there is none")


class Profile(BaseModel):
    name: str
    default: bool = Field(description="whether requests that name none run under it")
    selectable: bool = Field(description="whether a request may ask for it")
    positions: str = Field(description="'all', or 'response': generated tokens only")
    digest: str = Field(description="of what changes the KV cache; empty where nothing is touched")
    axis: str = Field(description="digest of the axis it measures and caps along")
    layers: dict[int, LayerRemap] = Field(description="by 0-based decoder layer; empty where nothing is touched")


class Profiles(BaseModel):
    default: str
    profiles: list[Profile]


class MeasuredLayer(BaseModel):
    default_mean: float | None = Field(description="mean projection of default-Assistant answers: drift 0")
    role_mean: float | None = Field(description="mean projection of role-playing answers: drift 1")


class ServedAxis(BaseModel):
    digest: str
    model: str = Field(description="id of the model it was extracted from")
    hidden_size: int
    model_layers: int
    monitored_layer: int = Field(description="0-based decoder layer at which drift is read")
    layers: dict[int, MeasuredLayer] = Field(description="the layers that are read, by 0-based decoder layer")


class ExperimentArm(BaseModel):
    arm: str = Field(description="NAME/ARM, as metrics, history and replies call it")
    profile: str
    share: float = Field(description="of new sessions")
    sessions: int | None = Field(description="that began in it, as the history holds them; null without a history")
    expected: float | None = Field(description="the same as the weights would have it")


class RunningExperiment(BaseModel):
    name: str
    on: bool = Field(description="whether sessions are dealt out now")
    begins: datetime | None
    ends: datetime | None
    default: str = Field(description="the arm under whose profile requests without a session run")
    arms: list[ExperimentArm]
    p: float | None = Field(description="how likely chance splits sessions at least so unevenly; null with too few")
    mismatch: bool | None = Field(description=f"whether p is below {MISMATCH:g}: sessions of an arm get lost")


@router.get("/profiles")
async def profiles(request: Request) -> Profiles:
    """Every profile in numbers, in the order of their slots."""
    served: Served = request.app.state.mooring
    settings = served.settings
    found = [_profile(served, slot) for slot in range(len(settings.profiles))]
    return Profiles(default=settings.default, profiles=found)


@router.get("/axis")
async def axis(request: Request) -> ServedAxis:
    """The axis that is served; a profile may have one of its own, which `profiles` names by digest."""
    table: SlotTable = request.app.state.mooring.table
    facts = table.axis_facts[0]
    means = [facts.default_mean or [None] * len(table.layers), facts.role_mean or [None] * len(table.layers)]
    return ServedAxis(
        digest=facts.digest,
        model=facts.model,
        hidden_size=table.hidden_size,
        model_layers=table.model_layers,
        monitored_layer=table.monitored_layer,
        layers={
            layer: MeasuredLayer(default_mean=default, role_mean=role)
            for layer, default, role in zip(table.layers, *means, strict=True)
        },
    )


@router.get("/experiment", responses={404: {"description": "the server runs none"}})
async def experiment(request: Request) -> RunningExperiment:
    """The experiment that deals sessions out, and how many each arm has got."""
    running: Assignments | None = request.app.state.mooring_experiment
    if running is None:
        raise HTTPException(404, "this server runs no experiment: start it with --experiment FILE")
    plan, split = running.experiment, running.split
    return RunningExperiment(
        name=plan.name,
        on=plan.is_on(),
        begins=plan.begins,
        ends=plan.ends,
        default=plan.label(plan.default),
        arms=[
            ExperimentArm(
                arm=arm,
                profile=plan.profiles[arm],
                share=share,
                sessions=None if split is None else split.observed[arm],
                expected=None if split is None else split.expected[arm],
            )
            for arm, share in plan.shares.items()
        ],
        p=None if split is None else split.p,
        mismatch=None if split is None or split.p is None else split.p < MISMATCH,
    )


def _profile(served: Served, slot: int) -> Profile:
    settings, table = served.settings, served.table
    entry = settings.profiles[slot]
    return Profile(
        name=entry.name,
        default=entry.name == settings.default,
        selectable=entry.selectable,
        positions=entry.positions,
        digest=entry.digest,
        axis=table.axis_facts[int(table.axis_of[slot])].digest,
        layers={layer: _remap(row) for layer, row in table.changes(slot).items()},
    )


def _remap(row: Any) -> LayerRemap:
    scale, shift, floor, ceiling = (float(value) for value in row)
    return LayerRemap(scale=scale, shift=shift, floor=_finite(floor), ceiling=_finite(ceiling))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
