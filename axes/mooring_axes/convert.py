"""Files of the paper's authors -> Axis. The only place that flips a sign.

assistant_axis.pt    (n, H), or {"axis": (n, H), "metadata": ...}. Row L = default Assistant - role-play, after
                     0-based decoder layer L: it points TOWARD the Assistant and is not normalised.
default_vector.pt    (n, H). Row L = mean activation of the default Assistant's answers.
capping_config.pt    {"vectors":     {name: {"vector": (H,), "layer": L}},
                      "experiments": [{"id": "layers_46:54-p0.25", "interventions": [{"vector": name, "cap": c}]}]}
                     Vectors point AWAY from the Assistant, are not unit, and are capped from above:

    theirs    h <- h - max(<h, u> - cap, 0) u        u = vector / |vector|
    ours      h <- h - min(<h, v> - floor, 0) v      v = -u, floor = -cap: the same operation

    theirs    p0.25 = the 25th percentile of <h, u> over all answers
    ours      share_below = 1 - 0.25 on <h, v>: the ordinary 75th percentile

The window in an id is half-open. Where an axis file comes with the config, the cosine of its rows with v must be
above 0.5 at every layer, so that a sign is seen and not trusted; the floors then keep the directions they were
measured on, which are the config's. With a default vector d and the axis row a, drift gets its two ends:
default_mean = <d, v> and role_mean = <d - a, v>.

Files are read with weights_only=True: a pickle that names code is refused before any of it runs.
"""

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from mooring_axes.artifact import Axis, FilePath, Percentiles, Recommended
from mooring_axes.errors import CannotServe

Doubles = npt.NDArray[np.float64]
Cap = dict[int, float]

MIN_COSINE: Final = 0.5
"""Least cosine between an axis row and the reversed config vector of that layer. They measure one contrast twice."""
PARALLEL: Final = 1 - 1e-6
"""Cosine from which two vectors of one layer count as one direction; lengths are free."""

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_ID = re.compile(r"layers_([0-9]{1,5}):([0-9]{1,5})-p(0(?:\.[0-9]{1,9})?|1(?:\.0{1,9})?)")


def from_assistant_axis(
    path: FilePath,
    *,
    model: str,
    monitored_layer: int | None = None,
    capping_config: FilePath | None = None,
    default_vector: FilePath | None = None,
    recommended: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Axis:
    """Convert an assistant_axis.pt; floors, and the directions they were measured on, come from a capping_config.pt.

    The monitored layer is the middle one unless given; `recommended` is the id of an experiment of the config.
    """
    if capping_config is not None:
        return from_capping_config(
            capping_config,
            model=model,
            monitored_layer=monitored_layer,
            axis_path=path,
            default_vector=default_vector,
            recommended=recommended,
            provenance=provenance,
        )
    if recommended is not None:
        raise CannotServe(f"cap {recommended!r} cannot be recommended: give the capping_config.pt it is in")
    axis, default = _read_rows(path), _read_optional(default_vector)
    return _assemble(
        _Parts(directions=_unit(axis.rows), norms=_lengths(axis.rows), axis=axis, default=default),
        path=path,
        model=model,
        monitored_layer=monitored_layer,
        provenance={"axis": axis.source, **(provenance or {})},
    )


def from_capping_config(
    path: FilePath,
    *,
    model: str,
    monitored_layer: int | None = None,
    axis_path: FilePath | None = None,
    default_vector: FilePath | None = None,
    recommended: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Axis:
    """Convert a capping_config.pt: each experiment becomes the cap of that name.

    With `axis_path` the sign is checked by cosine and layers without a vector take the axis file's row.
    """
    if default_vector is not None and axis_path is None:
        raise CannotServe(f"{default_vector} is of no use without the axis file: give assistant_axis.pt too")
    config = _read_config(path)
    axis, default = _read_optional(axis_path), _read_optional(default_vector)
    with _naming(path):
        vectors = _complete(config.vectors, axis)
        parts = _Parts(
            directions=-_unit(vectors),
            norms=_lengths(vectors if axis is None else axis.rows),
            axis=axis,
            default=default,
            caps=config.caps,
            recommended=_recommendation(recommended, config.caps),
        )
    sources = {"capping_config": config.source, "sign": "by the format, no axis file to check it against"}
    if axis is not None:
        sources |= {"axis": axis.source, "sign": f"cosine with the axis file above {MIN_COSINE} at every layer"}
    return _assemble(
        parts, path=path, model=model, monitored_layer=monitored_layer, provenance={**sources, **(provenance or {})}
    )


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """A file that holds one row per layer."""

    source: str
    rows: Doubles
    """(n_layers, hidden)"""


@dataclass(frozen=True, slots=True, eq=False)
class _Config:
    """A capping config, its signs: vectors as in the file, floors already on the +Assistant side."""

    source: str
    vectors: dict[int, Doubles]
    """Layer -> (hidden,), pointing away from the Assistant."""
    caps: dict[str, Cap]


@contextmanager
def _naming(path: FilePath) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except CannotServe as error:
        raise CannotServe(f"{path} cannot be converted: {error}") from None


def _read(path: FilePath) -> tuple[Any, str]:
    """Content and "name sha256:..." of one .pt file; the bytes that are hashed are the bytes that are read."""
    try:
        payload = Path(path).read_bytes()
    except OSError as error:
        raise CannotServe(f"{error.strerror}; name a readable .pt file") from None
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile stream can make the restricted unpickler raise anything: all is refusal
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CannotServe(
            "it is not a .pt file of plain tensors, and Mooring runs no code from files\n"
            f"  torch.load(weights_only=True) refused it: {reason}\n"
            "  save the tensors alone, or convert the file where you trust it"
        ) from None
    return content, f"{Path(path).name} sha256:{hashlib.sha256(payload).hexdigest()}"


def _read_rows(path: FilePath) -> _Rows:
    with _naming(path):
        content, source = _read(path)
        if isinstance(content, dict):
            if "axis" not in content:
                raise CannotServe(f"it holds the keys {_some(content)}, and 'axis' is not among them")
            content = content["axis"]
        rows = _numbers("the axis", content, ndim=2)
        for layer, row in enumerate(rows):
            _check_row(f"layer {layer}", row)
        return _Rows(source, rows)


def _read_optional(path: FilePath | None) -> _Rows | None:
    return None if path is None else _read_rows(path)


def _read_config(path: FilePath) -> _Config:
    with _naming(path):
        content, source = _read(path)
        if not isinstance(content, dict) or not {"vectors", "experiments"} <= set(content):
            raise CannotServe(f"a capping config has the keys 'vectors' and 'experiments', it holds {_some(content)}")
        named = _vectors(content["vectors"])
        return _Config(source, _by_layer(named), _experiments(content["experiments"], named))


def _numbers(what: str, value: object, ndim: int) -> Doubles:
    if not isinstance(value, torch.Tensor):
        raise CannotServe(f"{what} must be a tensor, got {type(value).__name__}")
    if value.dtype not in _DTYPES or value.layout != torch.strided or value.device.type != "cpu":
        raise CannotServe(f"{what} must be a plain bf16, fp16 or fp32 tensor, got {value.dtype} {value.layout}")
    if value.ndim != ndim or 0 in value.shape:
        raise CannotServe(f"{what} must have {ndim} dimensions, got shape {tuple(value.shape)}")
    array: Doubles = value.detach().to(torch.float64).numpy()
    return array


def _check_row(where: str, row: Doubles) -> None:
    if not np.isfinite(row).all():
        raise CannotServe(f"{where} holds {row[~np.isfinite(row)][0]}: every number must be finite")
    if not row.any():
        raise CannotServe(f"{where} is all zeros: it has no direction")


def _some(content: object) -> str:
    return str([str(key) for key in list(content)[:6]]) if isinstance(content, dict) else type(content).__name__


# --- the capping config --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Vector:
    layer: int
    vector: Doubles


def _vectors(value: object) -> dict[str, _Vector]:
    if not isinstance(value, dict) or not value:
        raise CannotServe(f"'vectors' must be a dict with an entry, got {_some(value)}")
    return {name: _vector(name, entry) for name, entry in value.items()}


def _vector(name: str, entry: object) -> _Vector:
    if not isinstance(entry, dict) or not {"vector", "layer"} <= set(entry):
        raise CannotServe(f"vector {name!r} must have the keys 'vector' and 'layer', it holds {_some(entry)}")
    if type(layer := entry["layer"]) is not int or layer < 0:
        raise CannotServe(f"vector {name!r} must name a 0-based layer, got {layer!r}")
    vector = _numbers(f"vector {name!r}", entry["vector"], ndim=1)
    _check_row(f"vector {name!r}", vector)
    return _Vector(layer, vector)


def _by_layer(named: Mapping[str, _Vector]) -> dict[int, Doubles]:
    """One direction per layer; two that differ cannot both be the axis."""
    first: dict[int, str] = {}
    width = next(iter(named.values())).vector.size
    for name, entry in named.items():
        if entry.vector.size != width:
            raise CannotServe(f"vector {name!r} has width {entry.vector.size}, others have {width}")
        known = first.setdefault(entry.layer, name)
        if (cosine := _cosine(named[known].vector, entry.vector)) < PARALLEL:
            raise CannotServe(
                f"layer {entry.layer} has two directions, {known!r} and {name!r} (cosine {cosine:.4f}): "
                "an axis has one per layer"
            )
    return {layer: named[name].vector for layer, name in first.items()}


def _experiments(value: object, named: Mapping[str, _Vector]) -> dict[str, Cap]:
    if not isinstance(value, list):
        raise CannotServe(f"'experiments' must be a list, got {_some(value)}")
    caps: dict[str, Cap] = {}
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise CannotServe(f"an experiment must be a dict with a text 'id', got {_some(entry)}")
        if entry["id"] in caps:
            raise CannotServe(f"experiment {entry['id']!r} is there twice")
        if cap := _cap(entry["id"], entry.get("interventions"), named):
            caps[entry["id"]] = cap
    return caps


def _cap(experiment: str, interventions: object, named: Mapping[str, _Vector]) -> Cap:
    """Floors of one experiment, {} if it caps nothing."""
    if not isinstance(interventions, list):
        raise CannotServe(f"experiment {experiment!r} must have a list 'interventions', got {_some(interventions)}")
    cap: Cap = {}
    for entry in interventions:
        if (floor := _floor(experiment, entry)) is None:
            continue
        if not isinstance(name := entry.get("vector"), str) or (vector := named.get(name)) is None:
            raise CannotServe(f"experiment {experiment!r} uses the vector {name!r}, which is not there")
        if cap.setdefault(vector.layer, floor) != floor:
            raise CannotServe(
                f"experiment {experiment!r} caps layer {vector.layer} at {-cap[vector.layer]} and at {-floor}: "
                "a profile has one floor per layer, so keep one of the two"
            )
    _check_window(experiment, cap)
    return cap


def _floor(experiment: str, intervention: object) -> float | None:
    """The ceiling on u, as a floor on v = -u; None where the intervention has no cap."""
    if not isinstance(intervention, dict):
        raise CannotServe(f"experiment {experiment!r} holds {type(intervention).__name__} where a dict was expected")
    if additive := {"coeff", "coef"} & set(intervention):
        raise CannotServe(
            f"experiment {experiment!r} is additive (it has {sorted(additive)[0]!r}): that is no cap; "
            "write a profile with a shift instead"
        )
    if "cap" not in intervention:
        return None
    cap = intervention["cap"]
    if isinstance(cap, torch.Tensor) and cap.numel() == 1:
        cap = cap.item()
    if isinstance(cap, bool) or not isinstance(cap, int | float) or not math.isfinite(cap):
        raise CannotServe(f"experiment {experiment!r} must cap at a finite number, got {cap!r}")
    return -float(cap)


def _check_window(experiment: str, cap: Cap) -> None:
    if (match := _ID.fullmatch(experiment)) and cap and sorted(cap) != list(range(int(match[1]), int(match[2]))):
        raise CannotServe(
            f"experiment {experiment!r} caps the layers {sorted(cap)}, "
            f"but its half-open window means {match[1]} to {int(match[2]) - 1}"
        )


def _recommendation(experiment: str | None, caps: Mapping[str, Cap]) -> Recommended | None:
    if experiment is None:
        return None
    if experiment not in caps:
        raise CannotServe(f"cap {experiment!r} is not in the file; it has {', '.join(sorted(caps)[:8]) or 'none'}")
    match = _ID.fullmatch(experiment)
    layers = f"{match[1]}:{match[2]}" if match else ",".join(map(str, sorted(caps[experiment])))
    return Recommended(layers, f"cap:{experiment}")


def _percentiles(caps: Mapping[str, Cap], n_layers: int) -> dict[str, Percentiles]:
    """The table over all answers, from every p whose experiments agree and together cover all layers."""
    found: dict[float, dict[int, set[float]]] = {}
    for name, cap in caps.items():
        if (match := _ID.fullmatch(name)) and 0 < (share := 1 - float(match[3])) < 1:
            for layer, floor in cap.items():
                found.setdefault(share, {}).setdefault(layer, set()).add(floor)
    whole = {s: f for s, f in found.items() if len(f) == n_layers and all(len(floors) == 1 for floors in f.values())}
    if not whole:
        return {}
    values = [[next(iter(whole[share][layer])) for share in sorted(whole)] for layer in range(n_layers)]
    return {"all": Percentiles(np.array(sorted(whole), np.float32), np.array(values, np.float32))}


# --- putting together ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    directions: Doubles
    """(n_layers, hidden) unit rows, toward the Assistant: the flip is already made."""
    norms: Doubles
    axis: _Rows | None
    default: _Rows | None
    caps: Mapping[str, Cap] | None = None
    recommended: Recommended | None = None


def _lengths(rows: Doubles) -> Doubles:
    lengths: Doubles = np.linalg.norm(rows, axis=1)
    return lengths


def _unit(rows: Doubles) -> Doubles:
    unit: Doubles = rows / _lengths(rows)[:, None]
    return unit


def _cosine(a: Doubles, b: Doubles) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _complete(vectors: Mapping[int, Doubles], axis: _Rows | None) -> Doubles:
    """(n_layers, hidden) away from the Assistant: the config's vectors, else the axis file's rows turned round."""
    if axis is None:
        n_layers = max(vectors) + 1
        if missing := sorted(set(range(n_layers)) - set(vectors)):
            raise CannotServe(f"layers {missing} have no vector: give the model's assistant_axis.pt too")
        return np.stack([vectors[layer] for layer in range(n_layers)])
    n_layers, width = axis.rows.shape
    if max(vectors) >= n_layers or next(iter(vectors.values())).size != width:
        raise CannotServe(
            f"it has layers up to {max(vectors)} and width {next(iter(vectors.values())).size}, "
            f"the axis file {axis.source.split()[0]} has {n_layers} layers and width {width}: they are of two models"
        )
    for layer, vector in sorted(vectors.items()):
        _check_sign(layer, _cosine(axis.rows[layer], -vector))
    return np.stack([vectors.get(layer, -axis.rows[layer]) for layer in range(n_layers)])


def _check_sign(layer: int, cosine: float) -> None:
    if cosine > MIN_COSINE:
        return
    what = "points the other way" if cosine < -MIN_COSINE else "is another direction"
    raise CannotServe(
        f"at layer {layer} its vector, turned toward the Assistant, {what}: cosine {cosine:.3f} with the axis file, "
        f"wanted above {MIN_COSINE}; check that both files are of one model and neither was negated"
    )


def _means(parts: _Parts) -> dict[str, npt.NDArray[np.float32]]:
    """Projections of the mean default answer and of the mean role-play; {} without a default vector."""
    if parts.axis is None or parts.default is None:
        return {}
    if parts.default.rows.shape != parts.axis.rows.shape:
        raise CannotServe(
            f"the default vector has shape {parts.default.rows.shape}, the axis {parts.axis.rows.shape}: "
            "they are of two models"
        )
    role = parts.default.rows - parts.axis.rows
    return {
        "default_mean": (parts.default.rows * parts.directions).sum(1).astype(np.float32),
        "role_mean": (role * parts.directions).sum(1).astype(np.float32),
    }


def _assemble(
    parts: _Parts, *, path: FilePath, model: str, monitored_layer: int | None, provenance: Mapping[str, str]
) -> Axis:
    n_layers, caps = parts.directions.shape[0], parts.caps or {}
    defaults = {} if parts.default is None else {"default_vector": parts.default.source}
    with _naming(path):
        return Axis(
            directions=parts.directions.astype(np.float32),
            norms=parts.norms.astype(np.float32),
            model=model,
            monitored_layer=n_layers // 2 if monitored_layer is None else monitored_layer,
            percentiles=_percentiles(caps, n_layers),
            caps=caps,
            recommended=parts.recommended,
            provenance={**defaults, **provenance},
            **_means(parts),
        )
