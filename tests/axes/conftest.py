"""An axis small enough to think about: 6 layers of width 33 (no power of two), from a fixed seed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mooring_axes.artifact import Axis, Percentiles, Recommended

N_LAYERS, HIDDEN = 6, 33


def _rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N_LAYERS, HIDDEN))


def _per_layer(*per_share: float) -> np.ndarray:
    """(n_layers, K) where layer L holds the given values + L."""
    return (np.array(per_share)[None, :] + np.arange(N_LAYERS)[:, None]).astype(np.float32)


@pytest.fixture
def fields() -> dict[str, Any]:
    """Arguments of a valid Axis in which nothing is left out; layer L's numbers are layer 0's + L."""
    rows = _rows()
    lengths = np.linalg.norm(rows, axis=1)
    return {
        "directions": (rows / lengths[:, None]).astype(np.float32),
        "norms": lengths.astype(np.float32),
        "model": "example/small",
        "monitored_layer": 2,
        "default_mean": _per_layer(4.0)[:, 0],
        "role_mean": _per_layer(2.0)[:, 0],
        "percentiles": {
            "all": Percentiles(np.array([0.25, 0.5, 0.75, 0.99], np.float32), _per_layer(1.0, 2.0, 4.0, 8.0)),
            "default": Percentiles(np.array([0.01, 0.25, 0.5], np.float32), _per_layer(1.0, 3.0, 4.0)),
        },
        "caps": {"layers_3:5-p0.25": {3: 7.0, 4: 8.0}},
        "recommended": Recommended("3:5", "cap:layers_3:5-p0.25"),
        "provenance": {"source": "a seed"},
    }


@pytest.fixture
def axis(fields: dict[str, Any]) -> Axis:
    return Axis(**fields)


@pytest.fixture
def bare(fields: dict[str, Any]) -> Axis:
    """An axis of directions only."""
    return Axis(**{key: fields[key] for key in ("directions", "norms", "model", "monitored_layer")})


@pytest.fixture
def write(tmp_path: Path, fields: dict[str, Any]) -> Callable[..., Path]:
    """Write an axis file by hand, any tensor or metadata replaced, or left out with None."""

    def _write(tensors: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None) -> Path:
        all_tensors = {
            **{name: fields[name] for name in ("directions", "norms", "default_mean", "role_mean")},
            "percentiles.all.shares": fields["percentiles"]["all"].shares,
            "percentiles.all.values": fields["percentiles"]["all"].values,
            **(tensors or {}),
        }
        all_metadata = {
            "format": "mooring-axis",
            "version": "1",
            "model": "example/small",
            "monitored_layer": "2",
            "caps": json.dumps({"gentle": {"3": 7.0, "4": 8.0}}),
            **(metadata or {}),
        }
        path = tmp_path / "hostile.safetensors"
        save_file(
            {name: np.ascontiguousarray(t) for name, t in all_tensors.items() if t is not None},
            path,
            {key: text for key, text in all_metadata.items() if text is not None},
        )
        return path

    return _write
