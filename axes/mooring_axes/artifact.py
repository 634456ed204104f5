"""The axis file: one unit direction per decoder layer, and what is known about projections on it.

The file is a safetensors file; `n` is the number of decoder layers, `H` the width of the residual stream.

Tensors, all F32 (nothing else MAY be present):
    directions                  (n, H)  MUST  row L points TOWARD the Assistant, | |row| - 1 | <= 1e-3
    norms                       (n,)    MUST  length of each row before it was normalised, > 0
    default_mean                (n,)    MAY   mean projection of default-Assistant answers
    role_mean                   (n,)    MAY   mean projection of fully role-playing answers
    percentiles.<pop>.shares    (K,)    MAY   share of answers BELOW the value, in (0, 1), strictly increasing
    percentiles.<pop>.values    (n, K)  MAY   projections, never falling along K; both tensors or neither
    <pop> is "all" (role, trait and default answers alike) or "default" (default-Assistant answers).

Metadata, string -> string as safetensors demands (nothing else MAY be present):
    format           MUST  "mooring-axis"
    version          MUST  "1"
    model            MUST  id of the model the axis was extracted from
    monitored_layer  MUST  decimal; the layer where drift is read; there default_mean > role_mean if both are given
    caps             MAY   JSON {name: {layer: floor}}: floor sets, each a lowest allowed projection per layer
    recommended      MAY   JSON {"layers": "46:54", "floor": "p25" or "cap:NAME"}
    provenance       MAY   JSON {text: text}

Layer L is 0-based and means the post-MLP residual stream that leaves decoder layer L. A projection is
<h, direction> in units of the residual stream; every number in the file MUST be finite. Percentiles are
ordinary quantiles on the +Assistant side; the convention that counts from the Assistant end belongs to
profiles.py, and files whose vectors point the other way are turned round in convert.py, nowhere else.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from mooring_axes.errors import CannotServe

FloatArray = npt.NDArray[np.float32]
FilePath = str | os.PathLike[str]

FORMAT: Final = "mooring-axis"
VERSION: Final = "1"
POPULATIONS: Final = ("all", "default")
UNIT_TOLERANCE: Final = 1e-3
FLOAT_MAX: Final = float(np.finfo(np.float32).max)

_METADATA = {"format", "version", "model", "monitored_layer", "caps", "recommended", "provenance"}
_TENSORS = {"directions", "norms", "default_mean", "role_mean"} | {
    f"percentiles.{population}.{part}" for population in POPULATIONS for part in ("shares", "values")
}


@dataclass(frozen=True, slots=True, eq=False)
class Percentiles:
    """Quantiles, per layer, of per-answer mean projections."""

    shares: FloatArray
    """(K,) share of answers below the value, in (0, 1), strictly increasing."""
    values: FloatArray
    """(n_layers, K) projections in residual-stream units along +axis."""


@dataclass(frozen=True, slots=True)
class Recommended:
    """The cap to use when the operator names none."""

    layers: str
    """Half-open window of 0-based layers: "46:54" is layers 46 to 53."""
    floor: str
    """A floor in the grammar of profiles.py: "p25", or "cap:NAME" for an entry of `Axis.caps`."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """A checked, read-only axis: one that breaks a rule of the format cannot be constructed."""

    directions: FloatArray
    """(n_layers, hidden_size) unit rows, pointing toward the Assistant."""
    norms: FloatArray
    """(n_layers,) length of each row before it was normalised."""
    model: str
    """Id of the model the axis was extracted from."""
    monitored_layer: int
    """0-based layer at which drift is read."""
    default_mean: FloatArray | None = None
    """(n_layers,) mean projection of default-Assistant answers: drift 0."""
    role_mean: FloatArray | None = None
    """(n_layers,) mean projection of fully role-playing answers: drift 1."""
    percentiles: Mapping[str, Percentiles] = field(default_factory=dict)
    """Population ("all" or "default") -> quantiles."""
    caps: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Name -> {layer: floor}, floors in residual-stream units along +axis."""
    recommended: Recommended | None = None
    """The cap to use when the operator names none; None where none is known."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where the axis came from. Not part of the digest."""

    def __post_init__(self) -> None:
        _check(self)
        for name in ("directions", "norms", "default_mean", "role_mean"):
            if (array := getattr(self, name)) is not None:
                object.__setattr__(self, name, _frozen(array))
        tables = {p: Percentiles(_frozen(t.shares), _frozen(t.values)) for p, t in self.percentiles.items()}
        caps = {name: MappingProxyType({k: float(v) for k, v in cap.items()}) for name, cap in self.caps.items()}
        object.__setattr__(self, "percentiles", MappingProxyType(tables))
        object.__setattr__(self, "caps", MappingProxyType(caps))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def __repr__(self) -> str:
        return f"Axis({self.model!r}, {self.n_layers} x {self.hidden_size}, digest {self.digest[:12]})"

    @property
    def n_layers(self) -> int:
        return int(self.directions.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self.directions.shape[1])

    @property
    def digest(self) -> str:
        """sha256 (hex) of all that decides how answers are capped and measured: not of `norms`, `model`, provenance."""
        sha = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())
        for name, array in sorted(_tensors(self).items()):
            if name != "norms":
                sha.update(f"{name} {array.shape}\n".encode())
                sha.update(array.astype("<f4").tobytes())
        rest = {"monitored_layer": self.monitored_layer, "caps": _plain(self.caps), "recommended": _plain_rec(self)}
        sha.update(json.dumps(rest, sort_keys=True, allow_nan=False).encode())
        return sha.hexdigest()

    def check_model(self, model: str, hidden_size: int, n_layers: int) -> str | None:
        """Refuse a model of another shape; return a warning where only the model's name differs."""
        if hidden_size != self.hidden_size:
            raise self._misfit(model, f"width {self.hidden_size}", f"hidden size {hidden_size}")
        if n_layers != self.n_layers:
            raise self._misfit(model, f"{self.n_layers} layers", f"{n_layers}")
        if model != self.model:
            return f"the axis was extracted from {self.model} and is used on {model}: floors and drift may not fit"
        return None

    def _misfit(self, model: str, ours: str, theirs: str) -> CannotServe:
        return CannotServe(
            f"the axis has {ours}, but {model} has {theirs}\n"
            f"  it was extracted from {self.model}\n"
            f"  serve an axis extracted from {model}; `mooring axes list` shows the known ones"
        )

    def save(self, path: FilePath) -> None:
        """Write the file whole or not at all; a file that was there stays until the new one is on disk."""
        payload = to_safetensors(_tensors(self), _metadata(self))
        try:
            _replace(Path(path), payload)
        except OSError as error:
            raise CannotServe(
                f"cannot write the axis to {path}: {error.strerror}\n  name a path in a writable folder"
            ) from None

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Read and check an axis file. Nothing in it is run."""
        try:
            return cls(**_fields(_read(Path(path))))
        except CannotServe as error:
            raise CannotServe(f"{path} cannot be used as an axis: {error}\n  {_WAY_OUT}") from None


_WAY_OUT = "a Mooring axis is a safetensors file made by `mooring axes`: make or download it again"


def parse_layers(text: str, n_layers: int) -> tuple[int, ...]:
    """Layers named by "46:54" (half-open), "40" or "40,42:46", in rising order; each 0-based and below n_layers."""
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?::\s*(\d{1,6})\s*)?", part, re.ASCII)
        if match is None:
            raise CannotServe(f'layers {text!r} are not readable: write "46:54" (half-open), "40" or "40,42:46"')
        start = int(match[1])
        stop = start + 1 if match[2] is None else int(match[2])
        if start >= stop:
            raise CannotServe(f"layers {text!r} hold an empty window: {start}:{stop} is half-open, so stop > start")
        if stop > n_layers:
            raise CannotServe(f"layers {text!r} reach layer {stop - 1}, but the axis has layers 0 to {n_layers - 1}")
        layers.extend(range(start, stop))
    if any(a >= b for a, b in pairwise(layers)):
        raise CannotServe(f"layers {text!r} must rise, each layer once: floors that are listed follow this order")
    return tuple(layers)


# --- rules ---------------------------------------------------------------------------------------


def _check(axis: Axis) -> None:
    """Every rule of the format that does not concern bytes on disk."""
    _check_directions(axis.directions)
    n_layers = axis.directions.shape[0]
    _check_array("norms", axis.norms, (n_layers,))
    if (bad := np.flatnonzero(axis.norms <= 0)).size:
        raise CannotServe(f"norms must be above 0, layer {bad[0]} has {axis.norms[bad[0]]}")
    if not isinstance(axis.model, str) or not axis.model.strip():
        raise CannotServe(f"model must name the model the axis was extracted from, got {axis.model!r}")
    _check_layer("monitored_layer", axis.monitored_layer, n_layers)
    _check_means(axis, n_layers)
    for population, table in axis.percentiles.items():
        _check_percentiles(population, table, n_layers)
    for name, cap in axis.caps.items():
        _check_cap(name, cap, n_layers)
    if axis.recommended is not None:
        _check_recommended(axis.recommended, axis.caps, n_layers)
    if bad_pairs := [(k, v) for k, v in axis.provenance.items() if not (isinstance(k, str) and isinstance(v, str))]:
        raise CannotServe(f"provenance must map text to text, got {bad_pairs[0]}")


def _check_array(name: str, array: FloatArray, shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32:
        raise CannotServe(f"{name} must be float32, got {array.dtype}")
    if array.shape != shape:
        raise CannotServe(f"{name} must have shape {shape}, got {array.shape}")
    if (bad := np.argwhere(~np.isfinite(array))).size:
        raise CannotServe(f"{name} must be finite, got {array[tuple(bad[0])]} in layer {bad[0][0]}")


def _check_directions(directions: FloatArray) -> None:
    if directions.ndim != 2 or 0 in directions.shape:
        raise CannotServe(f"directions must have shape (n_layers, hidden_size), got {directions.shape}")
    _check_array("directions", directions, directions.shape)
    lengths = np.linalg.norm(directions.astype(np.float64), axis=1)
    if (zero := np.flatnonzero(lengths == 0)).size:
        raise CannotServe(f"directions must be unit rows, layer {zero[0]} is all zeros")
    if (bad := np.flatnonzero(np.abs(lengths - 1) > UNIT_TOLERANCE)).size:
        raise CannotServe(f"directions must be unit rows, layer {bad[0]} has length {lengths[bad[0]]:.6g}")


def _check_layer(what: str, layer: int, n_layers: int) -> None:
    if type(layer) is not int:
        raise CannotServe(f"{what} must be an int, got {layer!r}")
    if not 0 <= layer < n_layers:
        raise CannotServe(f"{what} is {layer}, but the axis has layers 0 to {n_layers - 1}")


def _check_means(axis: Axis, n_layers: int) -> None:
    if axis.default_mean is not None:
        _check_array("default_mean", axis.default_mean, (n_layers,))
    if axis.role_mean is not None:
        _check_array("role_mean", axis.role_mean, (n_layers,))
    if axis.default_mean is None or axis.role_mean is None:
        return
    default, role = axis.default_mean[axis.monitored_layer], axis.role_mean[axis.monitored_layer]
    if default <= role:
        raise CannotServe(
            f"at the monitored layer {axis.monitored_layer} default_mean is {default} and role_mean {role}: "
            "default must be above role, so the means are swapped or the axis points away from the Assistant"
        )


def _check_percentiles(population: str, table: Percentiles, n_layers: int) -> None:
    if population not in POPULATIONS:
        raise CannotServe(f"percentiles of {population!r} are unknown: populations are {', '.join(POPULATIONS)}")
    name, shares = f"percentiles.{population}", table.shares
    if shares.ndim != 1 or not shares.size:
        raise CannotServe(f"{name}.shares must have shape (K,) with K >= 1, got {shares.shape}")
    _check_array(f"{name}.shares", shares, shares.shape)
    if shares.min() <= 0 or shares.max() >= 1:
        raise CannotServe(f"{name}.shares must lie between 0 and 1, got {shares.min()} to {shares.max()}")
    if (bad := np.flatnonzero(np.diff(shares) <= 0)).size:
        raise CannotServe(f"{name}.shares must increase, got {shares[bad[0]]} before {shares[bad[0] + 1]}")
    _check_array(f"{name}.values", table.values, (n_layers, shares.size))
    if (falls := np.argwhere(np.diff(table.values, axis=1) < 0)).size:
        layer, k = falls[0]
        pair = table.values[layer, k : k + 2]
        raise CannotServe(f"{name}.values must not fall with the share, layer {layer} has {pair[0]} before {pair[1]}")


def _check_cap(name: str, cap: Mapping[int, float], n_layers: int) -> None:
    if not isinstance(name, str) or not name.strip():
        raise CannotServe(f"a cap needs a name, got {name!r}")
    if not cap:
        raise CannotServe(f"cap {name!r} holds no layer: name at least one")
    for layer, floor in cap.items():
        _check_layer(f"a layer of cap {name!r}", layer, n_layers)
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not abs(floor) <= FLOAT_MAX:
            raise CannotServe(f"cap {name!r} must hold finite float32 floors, got {floor!r} at layer {layer}")


def _check_recommended(recommended: Recommended, caps: Mapping[str, Mapping[int, float]], n_layers: int) -> None:
    layers = parse_layers(recommended.layers, n_layers)
    name = recommended.floor.removeprefix("cap:")
    if name == recommended.floor:
        return
    if name not in caps:
        raise CannotServe(f"the recommended cap {name!r} is not among the axis' caps: {sorted(caps)}")
    if missing := sorted(set(layers) - set(caps[name])):
        raise CannotServe(f"the recommended cap {name!r} has no floor for layers {missing}")


# --- bytes ---------------------------------------------------------------------------------------


class _File(NamedTuple):
    tensors: dict[str, FloatArray]
    metadata: dict[str, str]


def _read(path: Path) -> _File:
    if not path.is_file():
        raise CannotServe("it is not a file" if path.exists() else "there is no such file")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            _check_metadata(metadata)
            names = set(file.keys())
            _check_names(names)
            return _File({name: _tensor(file, name) for name in names}, metadata)
    except (SafetensorError, OSError) as error:
        raise CannotServe(f"it is not a readable safetensors file ({error})") from None


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if (found := metadata.get("format")) != FORMAT:
        raise CannotServe(f"metadata 'format' must be {FORMAT!r}, got {found!r}")
    if (found := metadata.get("version")) != VERSION:
        raise CannotServe(f"format version must be {VERSION!r}, got {found!r}: a newer Mooring may read it")
    if missing := sorted({"model", "monitored_layer"} - set(metadata)):
        raise CannotServe(f"metadata {missing} are missing")
    if unknown := sorted(set(metadata) - _METADATA):
        raise CannotServe(f"metadata {unknown} are unknown: {sorted(_METADATA)} are allowed")


def _check_names(names: set[str]) -> None:
    if missing := sorted({"directions", "norms"} - names):
        raise CannotServe(f"tensors {missing} are missing")
    if unknown := sorted(names - _TENSORS):
        raise CannotServe(f"tensors {unknown} are unknown: {sorted(_TENSORS)} are allowed")


def _tensor(file: Any, name: str) -> FloatArray:
    if (dtype := file.get_slice(name).get_dtype()) != "F32":
        raise CannotServe(f"tensor {name!r} must be F32, got {dtype}")
    array: FloatArray = file.get_tensor(name)
    return array


def _fields(file: _File) -> dict[str, Any]:
    """File -> arguments of Axis. Shapes and values are left to _check."""
    tensors, metadata = file
    return {
        **{name: tensors.get(name) for name in ("directions", "norms", "default_mean", "role_mean")},
        "model": metadata["model"],
        "monitored_layer": _decimal("monitored_layer", metadata["monitored_layer"]),
        "percentiles": {p: _table(p, tensors) for p in POPULATIONS if any(f"percentiles.{p}." in t for t in tensors)},
        "caps": _caps(_json("caps", metadata)),
        "recommended": _recommended(_json("recommended", metadata)),
        "provenance": _json("provenance", metadata),
    }


def _table(population: str, tensors: Mapping[str, FloatArray]) -> Percentiles:
    names = [f"percentiles.{population}.{part}" for part in ("shares", "values")]
    if missing := [name for name in names if name not in tensors]:
        raise CannotServe(f"tensor {missing[0]!r} is missing: shares and values come together")
    return Percentiles(tensors[names[0]], tensors[names[1]])


def _decimal(what: str, text: str) -> int:
    if re.fullmatch(r"0|[1-9][0-9]{0,5}", text) is None:
        raise CannotServe(f"{what} must be a layer number in decimal, got {text!r}")
    return int(text)


def _json(key: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise CannotServe(f"metadata {key!r} must hold finite numbers, got {constant}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(keys := dict(pairs)) != len(pairs):
            raise CannotServe(f"metadata {key!r} holds one key twice among {[name for name, _ in pairs]}")
        return keys

    try:
        text = metadata.get(key, "{}")
        # parse_int=float: an integer of 400 digits becomes inf, which the rules refuse, instead of an OverflowError.
        value = json.loads(text, parse_int=float, parse_constant=refuse, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CannotServe(f"metadata {key!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CannotServe(f"metadata {key!r} must be a JSON object, got {type(value).__name__}")
    return value


def _caps(value: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    if bad := [name for name, cap in value.items() if not isinstance(cap, dict)]:
        raise CannotServe(f"cap {bad[0]!r} must map layers to floors, got {value[bad[0]]!r}")
    return {name: {_decimal(f"a layer of cap {name!r}", k): v for k, v in cap.items()} for name, cap in value.items()}


def _recommended(value: Mapping[str, Any]) -> Recommended | None:
    if not value:
        return None
    if set(value) != {"layers", "floor"} or not all(isinstance(v, str) for v in value.values()):
        raise CannotServe(f"recommended must hold the texts 'layers' and 'floor', got {dict(value)!r}")
    return Recommended(**value)


def _tensors(axis: Axis) -> dict[str, FloatArray]:
    tables = {
        f"percentiles.{population}.{part}": getattr(table, part)
        for population, table in axis.percentiles.items()
        for part in ("shares", "values")
    }
    arrays = {name: getattr(axis, name) for name in ("directions", "norms", "default_mean", "role_mean")}
    return {name: array for name, array in (arrays | tables).items() if array is not None}


def _metadata(axis: Axis) -> dict[str, str]:
    fields = {"caps": _plain(axis.caps), "recommended": _plain_rec(axis), "provenance": dict(axis.provenance)}
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": axis.model,
        "monitored_layer": str(axis.monitored_layer),
        **{key: json.dumps(value, sort_keys=True, allow_nan=False) for key, value in fields.items() if value},
    }


def _plain(caps: Mapping[str, Mapping[int, float]]) -> dict[str, dict[int, float]]:
    return {name: dict(cap) for name, cap in caps.items()}


def _plain_rec(axis: Axis) -> dict[str, str]:
    return {} if axis.recommended is None else {"layers": axis.recommended.layers, "floor": axis.recommended.floor}


def _frozen(array: FloatArray) -> FloatArray:
    """A C-ordered copy that nobody can write to: the digest may be taken once and kept."""
    copy = np.array(array, dtype=np.float32, order="C")
    copy.setflags(write=False)
    return copy


def _replace(path: Path, payload: bytes) -> None:
    """Write beside `path`, flush to disk, then rename over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
