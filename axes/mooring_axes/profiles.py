"""Profiles: named ways to treat a request, and what they come to on a given axis.

    q  = clamp(scale * p + shift, floor, ceiling)       p = <h, v>, v the unit axis of that layer
    h' = h + (q - p) v                                  after each layer of the profile

p, floor, ceiling and shift are in residual-stream units along +axis, which points TOWARD the Assistant:
`floor` alone is the cap of arXiv:2601.10387, and a higher floor is a stronger cap. scale is a pure number.

A floor (and a ceiling) is written in one of these forms:
    -1.5                     the same projection at every layer
    [-1.5, -1.2]             one per layer, in the order of `layers`
    p25                      the published convention: 25 % of ALL answers lie ABOVE it, counted from the
                             Assistant end, so it is the ordinary 75th percentile. p1 is the strongest
    default_p25              ordinary percentile: 25 % of the default Assistant's answers lie BELOW it
    default_mean+0.5gap      gap = default_mean - role_mean at that layer; also default_mean, default_mean-1gap
    cap:NAME                 the axis' own set of floors of that name

The file is YAML: {default: NAME, off_selectable: true, profiles: [{name: ..., layers: "46:54", floor: p25}]}.
"""

import hashlib
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, model_validator

from mooring_axes.artifact import FLOAT_MAX, Axis, FilePath, parse_layers
from mooring_axes.errors import CannotServe
from mooring_axes.yaml12 import plain_name, read_mapping, worded

OFF: Final = "off"
"""The built-in profile of slot 0: measures and never touches."""

Numbers = float | tuple[float, ...]
Level = float | tuple[float, ...] | str


# --- the forms of a floor ------------------------------------------------------------------------


def _from_the_assistant_end(axis: Axis, layer: int, q: str) -> float:
    return _quantile(axis, "all", layer, 1 - float(q) / 100, spoken=lambda share: f"p{round(100 * (1 - share), 3):g}")


def _of_the_default(axis: Axis, layer: int, q: str) -> float:
    return _quantile(axis, "default", layer, float(q) / 100, spoken=lambda share: f"default_p{round(100 * share, 3):g}")


def _quantile(axis: Axis, population: str, layer: int, share: float, spoken: Callable[[float], str]) -> float:
    """Value with `share` of the answers below it; between two table points on the straight line, outside refused."""
    if (table := axis.percentiles.get(population)) is None:
        raise CannotServe(f"the axis holds no percentiles of {population!r} answers, {_offers(axis)}")
    shares, values = table.shares.astype(np.float64), table.values[layer].astype(np.float64)
    nearest = int(np.abs(shares - share).argmin())
    if abs(shares[nearest] - share) < 1e-6:  # float32 holds 0.99 as 0.9900000095: the end of the table is inside it
        return float(values[nearest])
    if not shares[0] < share < shares[-1]:
        ends = sorted((spoken(shares[0]), spoken(shares[-1])))
        raise CannotServe(f"{spoken(share)} lies outside the axis' table, which spans {ends[0]} to {ends[1]}")
    return float(np.interp(share, shares, values))


def _from_the_means(axis: Axis, layer: int, gaps: str | None) -> float:
    if axis.default_mean is None:
        raise CannotServe(f"the axis holds no default_mean, {_offers(axis)}")
    default = float(axis.default_mean[layer])
    if gaps is None:
        return default
    if axis.role_mean is None:
        raise CannotServe(f"the axis holds no role_mean, so there is no gap, {_offers(axis)}")
    if (gap := default - float(axis.role_mean[layer])) <= 0:
        raise CannotServe(f"at layer {layer} the gap default_mean - role_mean is {gap:g}: it must be above 0")
    return default + float(gaps) * gap


def _named(axis: Axis, layer: int, name: str) -> float:
    if (cap := axis.caps.get(name)) is None:
        raise CannotServe(f"the axis has no cap {name!r}, {_offers(axis)}")
    if layer not in cap:
        raise CannotServe(f"the axis' cap {name!r} has no floor for layer {layer}, only for {sorted(cap)}")
    return cap[layer]


def _offers(axis: Axis) -> str:
    """What this axis does hold, for the end of an error."""
    means = [name for name in ("default_mean", "role_mean") if getattr(axis, name) is not None]
    tables = [f"percentiles of {population!r}" for population in axis.percentiles]
    caps = [f"caps {', '.join(sorted(axis.caps)[:4])}{', ...' if len(axis.caps) > 4 else ''}"] if axis.caps else []
    return f"it holds {'; '.join([*means, *tables, *caps]) or 'directions only'}: use that or a number"


_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,6})?"
_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[Axis, int, Any], float]], ...]] = (
    (re.compile(rf"p({_NUMBER})"), _from_the_assistant_end),
    (re.compile(rf"default_p({_NUMBER})"), _of_the_default),
    (re.compile(rf"default_mean(?:([+-]{_NUMBER})gap)?"), _from_the_means),
    (re.compile(r"cap:(.+)"), _named),
)


def _level_at(text: str, axis: Axis, layer: int) -> float:
    """The value at one layer of a form that is written as text."""
    for pattern, value_at in _FORMS:
        if match := pattern.fullmatch(text):
            return value_at(axis, layer, match[1])
    raise CannotServe(_unreadable(text))


def _unreadable(text: str) -> str:
    return f"{text!r} is not readable: write a number, a list, p25, default_p25, default_mean+0.5gap or cap:NAME"


# --- the profile as it is written ----------------------------------------------------------------


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {value!r}")
    if not abs(value) <= FLOAT_MAX:
        raise ValueError(f"must be finite in float32, got {value!r}")
    return float(value)


def _numbers(value: object) -> Numbers:
    return tuple(map(_number, value)) if isinstance(value, list | tuple) else _number(value)


def _level(value: object) -> Level | None:
    if value is None or not isinstance(value, str):
        return None if value is None else _numbers(value)
    if not any(pattern.fullmatch(value) for pattern, _ in _FORMS):
        raise ValueError(_unreadable(value))
    if (q := re.fullmatch(rf"(?:default_)?p({_NUMBER})", value)) and not 0 < float(q[1]) < 100:
        raise ValueError(f"{value!r} is not a percentile: it must lie between 0 and 100")
    return value


def _layers(value: object) -> tuple[int, ...]:
    if isinstance(value, str):
        return parse_layers(value, n_layers=1_000_000)
    layers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not layers or not all(type(layer) is int and layer >= 0 for layer in layers):
        raise ValueError(f'must be "46:54" (half-open), "40,42:46" or a list of 0-based layers, got {value!r}')
    if any(a >= b for a, b in pairwise(layers)):
        raise ValueError(f"must rise, each layer once, got {list(layers)}: floors that are listed follow this order")
    return layers


def _name(value: object) -> str:
    name = plain_name(value)
    if name.lower() == OFF:
        raise ValueError("'off' is built in: say whether it may be chosen with the key off_selectable")
    return name


class Profile(BaseModel):
    """How one class of requests is treated. Immutable: to change a profile, publish a new name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, PlainValidator(_name)]
    """What requests call it: 1 to 64 of A-Z a-z 0-9 . _ - ; "off" is taken."""
    axis: str | None = None
    """Registry name or a path on the server, never a client's; None = the axis that is served."""
    layers: Annotated[tuple[int, ...], PlainValidator(_layers)]
    """0-based layers after which the stream is changed: "46:54" (half-open), "40,42:46", or a list; rising."""
    floor: Annotated[Level | None, PlainValidator(_level)] = None
    """Lowest allowed projection, in residual-stream units along +axis; the forms are in the head of this file."""
    ceiling: Annotated[Level | None, PlainValidator(_level)] = None
    """Highest allowed projection; same unit and forms as `floor`."""
    shift: Annotated[Numbers, PlainValidator(_numbers)] = 0.0
    """Added to every projection before the floor, in residual-stream units; a number or one per layer."""
    scale: Annotated[Numbers, PlainValidator(_numbers)] = 1.0
    """Every projection is multiplied by this before `shift`; 0 removes the axis; a number or one per layer."""
    positions: Literal["all", "response"] = "all"
    """"all" = prompt and answer, what the paper measured; "response" = positions from the prompt's length on."""
    selectable: bool = True
    """Whether a request may ask for it by name. The default profile applies either way."""
    description: str | None = None
    """For the people who choose; no effect."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        still = _all_equal(self.shift, 0.0) and _all_equal(self.scale, 1.0)
        if self.floor is None and self.ceiling is None and still:
            raise ValueError("needs a floor, a ceiling, a shift or a scale; to serve uncapped, use the profile 'off'")
        return self


def _all_equal(numbers: Numbers, value: float) -> bool:
    return all(n == value for n in numbers) if isinstance(numbers, tuple) else numbers == value


class ProfileFile(BaseModel):
    """All profiles of one server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str | None = None
    """Profile of a request that names none: one of `profiles` or "off"; None = the cap the axis recommends."""
    profiles: tuple[Profile, ...] = ()
    """The profiles; "off" is always there besides."""
    off_selectable: bool = True
    """Whether a request may ask for "off"."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [profile.name for profile in self.profiles]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"profiles {twice} are there twice: give each its own name")
        if self.default is not None and self.default not in [*names, OFF]:
            raise ValueError(f"default is {self.default!r}, which is not among the profiles: {[*names, OFF]}")
        return self


# --- the file ------------------------------------------------------------------------------------


def load_profiles(path: FilePath) -> ProfileFile:
    """Read and check a profile file. What depends on the axis is checked by `resolve`."""
    data = read_mapping(path, "the profiles", keys=tuple(ProfileFile.model_fields))
    try:
        return ProfileFile.model_validate(data)
    except ValidationError as error:
        raise CannotServe(f"{path} holds profiles that cannot be served:\n  {_explain(error, data)}") from None


def _explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """pydantic's list of errors, one line each: key, then what was wrong."""
    lines = []
    for entry in error.errors():
        where = ".".join(map(str, entry["loc"]))
        if entry["loc"][:1] == ("profiles",) and len(entry["loc"]) > 1:
            written = data["profiles"][entry["loc"][1]]
            where += f" (profile {written['name']!r})" if isinstance(written, dict) and "name" in written else ""
        message = worded(entry)
        if entry["type"] == "extra_forbidden":
            known = ProfileFile.model_fields if len(entry["loc"]) == 1 else Profile.model_fields
            message += f"; known are {', '.join(known)}"
        lines.append(f"{where}: {message}" if where else message)
    return "\n  ".join(lines)


# --- the profile on an axis ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remap:
    """What becomes of a projection p at one layer: q = clamp(scale * p + shift, floor, ceiling)."""

    floor: float = -math.inf
    """Lowest q; -inf where there is none."""
    ceiling: float = math.inf
    """Highest q; inf where there is none."""
    shift: float = 0.0
    """Residual-stream units along +axis."""
    scale: float = 1.0
    """A pure number."""


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedProfile:
    """A profile in numbers, on the axis it will be served with."""

    name: str
    """What requests call it."""
    axis: Axis
    """The axis it acts on and is measured on."""
    remaps: Mapping[int, Remap]
    """0-based layer -> what is done after that layer; empty for "off"."""
    positions: str
    """"all" or "response"."""
    selectable: bool
    """Whether a request may ask for it by name."""

    @property
    def digest(self) -> str:
        """sha256 (hex) of what changes KV: equal digests may share a prefix cache. Empty where nothing is touched."""
        if not self.remaps:
            return ""
        sha = hashlib.sha256(f"mooring-profile 1 {self.positions}\n".encode())
        for layer, remap in sorted(self.remaps.items()):
            sha.update(struct.pack("<q4d", layer, remap.floor, remap.ceiling, remap.shift, remap.scale))
            sha.update(self.axis.directions[layer].astype("<f4").tobytes())
        return sha.hexdigest()


def resolve(profile: Profile, axis: Axis) -> ResolvedProfile:
    """Turn every form into numbers on this axis; refuse what it cannot say."""
    if profile.layers[-1] >= axis.n_layers:
        raise CannotServe(
            f"profile {profile.name!r} names layer {profile.layers[-1]}, "
            f"but the axis of {axis.model} has layers 0 to {axis.n_layers - 1}"
        )
    floors, ceilings, shifts, scales = (
        _per_layer(profile, key, axis, otherwise)
        for key, otherwise in (("floor", -math.inf), ("ceiling", math.inf), ("shift", 0.0), ("scale", 1.0))
    )
    remaps = dict(zip(profile.layers, map(Remap, floors, ceilings, shifts, scales), strict=True))
    for layer, remap in remaps.items():
        if remap.floor > remap.ceiling:
            raise CannotServe(
                f"profile {profile.name!r} has floor {remap.floor:g} above ceiling {remap.ceiling:g} at layer {layer}"
            )
    return ResolvedProfile(profile.name, axis, MappingProxyType(remaps), profile.positions, profile.selectable)


def _per_layer(profile: Profile, key: str, axis: Axis, otherwise: float) -> list[float]:
    value: Level | None = getattr(profile, key)
    if value is None:
        return [otherwise] * len(profile.layers)
    if isinstance(value, str):
        try:
            return [_level_at(value, axis, layer) for layer in profile.layers]
        except CannotServe as error:
            raise CannotServe(f"profile {profile.name!r}, {key} {value!r}: {error}") from None
    if isinstance(value, float):
        return [value] * len(profile.layers)
    if len(value) != len(profile.layers):
        raise CannotServe(
            f"profile {profile.name!r} lists {len(value)} values of {key} for {len(profile.layers)} layers: "
            "list one per layer, or a single number"
        )
    return list(value)


def off_profile(axis: Axis, selectable: bool = True) -> ResolvedProfile:
    """The built-in "off": measured on `axis`, never touched."""
    return ResolvedProfile(OFF, axis, MappingProxyType({}), "all", selectable)


def recommended_profile(axis: Axis) -> Profile | None:
    """The cap the axis recommends, under the name "default"; None where it recommends none."""
    if axis.recommended is None:
        return None
    layers, floor = axis.recommended.layers, axis.recommended.floor
    try:
        return Profile.model_validate({"name": "default", "layers": layers, "floor": floor})
    except ValidationError as error:
        raise CannotServe(f"the axis of {axis.model} recommends what is no cap: {_explain(error, {})}") from None
