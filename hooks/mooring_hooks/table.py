"""Profiles as the worker needs them: one row per slot, one set of tables per site.

A *site* is a place "after decoder layer L": every layer that some profile caps, and the monitored layer.
Slot 0 is `off`; profiles follow in the order they were given; slots beyond them are empty and act like `off`.

The table travels to every worker as a safetensors file named by its own sha256 in a folder that all nodes
of a deployment share or each have a copy of (`MOORING_TABLES`). vLLM's `additional_config["mooring"]` holds
that digest and the names: it is part of vLLM's compile-cache key, so it holds contents and no path.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mooring_axes.artifact import Axis
from mooring_axes.errors import CannotServe
from mooring_axes.profiles import OFF, Remap, ResolvedProfile

DEFAULT_SLOTS: Final = 16
TABLES_VARIABLE: Final = "MOORING_TABLES"
CONFIG_KEY: Final = "mooring"
INDUCTOR: Final = "inductor"
TRITON: Final = "triton"
KERNELS: Final = (INDUCTOR, TRITON)
"""What computes the operation: Inductor's fusion of norm.py, or the kernel in kernel.py."""
KERNEL_VARIABLE: Final = "MOORING_KERNEL"
_FORMAT: Final = "mooring-table-2"
_PARSED: Final[list[Any]] = []
"""The settings that were read last: what they were read from, and the result."""


@dataclass(frozen=True, slots=True)
class ProfileEntry:
    """What every process knows about a profile without its numbers."""

    name: str
    digest: str
    """Of what changes KV; empty where nothing is touched. Equal digests share a prefix cache."""
    positions: str
    selectable: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """`additional_config["mooring"]`: which table, and how its slots are called."""

    table: str
    """sha256 (hex) of the table file."""
    default: str
    """Profile of a request that names none."""
    slots: int
    """Rows of the table, used or not."""
    profiles: tuple[ProfileEntry, ...]
    """In slot order; the first is `off`."""
    kernel: str = INDUCTOR
    """One of KERNELS."""

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "default": self.default,
            "slots": self.slots,
            "profiles": [
                {"name": e.name, "digest": e.digest, "positions": e.positions, "selectable": e.selectable}
                for e in self.profiles
            ],
            "kernel": self.kernel,
        }

    @classmethod
    def from_config(cls, additional_config: object) -> "Settings | None":
        """Read them back from vLLM's configuration; None where Mooring is not configured."""
        if not isinstance(additional_config, Mapping) or CONFIG_KEY not in additional_config:
            return None
        found = additional_config[CONFIG_KEY]
        if _PARSED and _PARSED[0] is found:  # asked for by every request, of the one configuration of a process
            return _PARSED[1]
        try:
            entries = tuple(ProfileEntry(**entry) for entry in found["profiles"])
            settings = cls(found["table"], found["default"], found["slots"], entries, found["kernel"])
        except (TypeError, KeyError) as error:
            raise CannotServe(
                f"--additional-config holds a {CONFIG_KEY!r} entry that Mooring did not write: {error!r}\n"
                "  take the line that `mooring serve ... --print-command` prints"
            ) from None
        _PARSED[:] = found, settings
        return settings

    def names(self) -> list[str]:
        return [entry.name for entry in self.profiles]

    def selectable(self) -> list[str]:
        return [entry.name for entry in self.profiles if entry.selectable]

    def slot_of(self, name: str) -> int:
        return self.names().index(name)

    def entry(self, name: str) -> ProfileEntry:
        return self.profiles[self.slot_of(name)]


@dataclass(frozen=True, slots=True)
class AxisFacts:
    """What is known about one of the directions; S sites."""

    digest: str
    model: str
    """Id of the model it was extracted from."""
    default_mean: tuple[float, ...] | None
    """(S,) mean projection of default-Assistant answers at each site."""
    role_mean: tuple[float, ...] | None
    """(S,) of role-playing answers."""

    @classmethod
    def of(cls, axis: Axis, layers: Sequence[int]) -> "AxisFacts":
        def at(means: npt.NDArray[np.float32] | None) -> tuple[float, ...] | None:
            return None if means is None else tuple(float(means[layer]) for layer in layers)

        return cls(axis.digest, axis.model, at(axis.default_mean), at(axis.role_mean))

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "AxisFacts":
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


@dataclass(frozen=True, slots=True, eq=False)
class SlotTable:
    """All numbers of all slots; S sites, P slots, A distinct directions, H the width of the stream."""

    layers: tuple[int, ...]
    """(S,) the sites' 0-based layers, rising."""
    axes: npt.NDArray[np.float32]
    """(S, A, H) distinct directions at each site, toward the Assistant."""
    axis_of: npt.NDArray[np.int32]
    """(P,) row of `axes` that a slot uses, the same at every site."""
    remaps: npt.NDArray[np.float32]
    """(S, P, 4) scale, shift, floor, ceiling."""
    model_layers: int
    """Number of decoder layers of the model the axes were extracted from."""
    monitored_layer: int
    axis_facts: tuple[AxisFacts, ...]
    """(A,)"""

    @classmethod
    def build(cls, profiles: Sequence[ResolvedProfile], slots: int = DEFAULT_SLOTS) -> "SlotTable":
        """`profiles` in slot order, the first being `off`, whose axis is the one that is served."""
        _check_profiles(profiles, slots)
        served = profiles[0].axis
        layers = sorted({served.monitored_layer, *(layer for p in profiles for layer in p.remaps)})
        distinct = {p.axis.digest: p.axis for p in profiles}
        order = list(distinct)
        axis_of = np.zeros(slots, np.int32)
        axis_of[: len(profiles)] = [order.index(p.axis.digest) for p in profiles]
        axes = np.stack([np.stack([axis.directions[layer] for axis in distinct.values()]) for layer in layers])
        remaps = np.empty((len(layers), slots, 4), np.float32)
        remaps[:] = _row(Remap())
        for slot, profile in enumerate(profiles):
            for layer, change in profile.remaps.items():
                remaps[layers.index(layer), slot] = _row(change)
        facts = tuple(AxisFacts.of(axis, layers) for axis in distinct.values())
        return cls(tuple(layers), axes, axis_of, remaps, served.n_layers, served.monitored_layer, facts)

    @property
    def hidden_size(self) -> int:
        return int(self.axes.shape[2])

    @property
    def slots(self) -> int:
        return int(self.axis_of.shape[0])

    @property
    def acts(self) -> npt.NDArray[np.bool_]:
        """(S, P) whether a slot changes anything at a site."""
        found: npt.NDArray[np.bool_] = (self.remaps != np.array(_row(Remap()), np.float32)).any(axis=2)
        return found

    def changes(self, slot: int) -> dict[int, npt.NDArray[np.float32]]:
        """Layer -> (4,) scale, shift, floor and ceiling, of the layers where a slot changes something."""
        acts = self.acts[:, slot]
        return {layer: self.remaps[site, slot] for site, layer in enumerate(self.layers) if acts[site]}

    def to_bytes(self) -> bytes:
        tensors = {"axes": self.axes, "axis_of": self.axis_of, "remaps": self.remaps}
        facts = {
            "layers": self.layers,
            "model_layers": self.model_layers,
            "monitored_layer": self.monitored_layer,
            "axis_facts": [asdict(facts) for facts in self.axis_facts],
        }
        # One entry: safetensors writes several in no fixed order, and equal tables must have equal bytes.
        return save(tensors, {_FORMAT: json.dumps(facts)})

    def store(self, folder: Path) -> str:
        """Write the table into `folder` under its digest, and return the digest."""
        payload = self.to_bytes()
        digest = hashlib.sha256(payload).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as temporary:
            temporary.write(payload)
        os.replace(temporary.name, table_path(folder, digest))
        return digest

    @classmethod
    def fetch(cls, folder: Path, digest: str) -> "SlotTable":
        """Read the table with this digest; refuse one whose bytes are others."""
        path = table_path(folder, digest)
        try:
            payload = path.read_bytes()
        except OSError as error:
            raise CannotServe(
                f"this node has no capping table {digest[:12]}: {path}: {error.strerror}\n"
                f"  copy the file from the node that ran `mooring serve`, and set {TABLES_VARIABLE} to its folder"
            ) from None
        if (found := hashlib.sha256(payload).hexdigest()) != digest:
            raise CannotServe(f"{path} was changed: its sha256 is {found}\n  delete it and run `mooring serve` again")
        return cls._parse(path)

    @classmethod
    def _parse(cls, path: Path) -> "SlotTable":
        try:
            with safe_open(path, framework="np") as file:
                facts = json.loads(file.metadata()[_FORMAT])
                arrays = {name: file.get_tensor(name) for name in ("axes", "axis_of", "remaps")}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CannotServe(f"{path} is no capping table: {error}\n  run `mooring serve` again") from None
        of_axes = tuple(AxisFacts.from_json(found) for found in facts.pop("axis_facts"))
        return cls(tuple(facts.pop("layers")), **arrays, **facts, axis_facts=of_axes)


def tables_folder() -> Path:
    """Where tables lie: $MOORING_TABLES, else the user's cache folder."""
    if named := os.environ.get(TABLES_VARIABLE):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mooring" / "tables"


def table_path(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.safetensors"


def publish(
    profiles: Sequence[ResolvedProfile],
    default: str,
    slots: int = DEFAULT_SLOTS,
    folder: Path | None = None,
    kernel: str = INDUCTOR,
) -> Settings:
    """Store the table of `profiles` (slot order, `off` first) and return the settings that name it."""
    table = SlotTable.build(profiles, slots)
    digest = table.store(folder or tables_folder())
    entries = tuple(ProfileEntry(p.name, p.digest, p.positions, p.selectable) for p in profiles)
    settings = Settings(digest, default, slots, entries, kernel)
    if default not in settings.names():
        raise CannotServe(f"the default profile is {default!r}, but there are only {', '.join(settings.names())}")
    return settings


def _row(change: Remap) -> tuple[float, float, float, float]:
    return change.scale, change.shift, change.floor, change.ceiling


def _check_profiles(profiles: Sequence[ResolvedProfile], slots: int) -> None:
    if not profiles or profiles[0].name != OFF or profiles[0].remaps:
        raise ValueError("slot 0 must be the untouched profile 'off'")
    if len(profiles) > slots:
        raise CannotServe(
            f"there are {len(profiles)} profiles with 'off', but the table has {slots} slots\n"
            f"  start with --slots {len(profiles)} or more"
        )
    names = [profile.name for profile in profiles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CannotServe(f"profiles {twice} are there twice: give each its own name")
    for profile in profiles:
        _check_shape(profile, profiles[0].axis)
        if bad := [r for r in profile.remaps.values() if math.isnan(sum((r.scale, r.shift)))]:
            raise CannotServe(f"profile {profile.name!r} holds a number that is none: {bad[0]}")


def _check_shape(profile: ResolvedProfile, served: Axis) -> None:
    shape, wanted = profile.axis.directions.shape, served.directions.shape
    if shape != wanted:
        raise CannotServe(
            f"profile {profile.name!r} has an axis of {shape[0]} layers and width {shape[1]}, "
            f"but the served axis has {wanted[0]} layers and width {wanted[1]}\n"
            f"  it was extracted from {profile.axis.model}: use one extracted from {served.model}"
        )
