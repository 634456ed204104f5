"""Projections of single requests, kept in the worker for those who asked before the request ran.

The served graph writes every row's projection at every site into that site's buffer. A watch names requests by
the beginning of their ids; after each step their rows are copied out. Used by the start-up self-test and by
offline parity checks; nothing is kept for requests that nobody watches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mooring_hooks.rows import Batch
from mooring_hooks.sites import Site


class Watch:
    """Collects per-position projections of the requests whose ids begin with a watched prefix."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._readings: dict[str, dict[str, list[Any]]] = {}

    def begin(self, prefix: str) -> None:
        self._readings[prefix] = {}

    def end(self, prefix: str) -> dict[str, Any]:
        """What was seen, as plain lists: request id -> positions (T,), slots (T,), axis of the last row's slot,
        projections {layer: (T,)} before the cap, lifts {layer: (T,)}."""
        return {request: self._reading(steps) for request, steps in self._readings.pop(prefix, {}).items()}

    def _reading(self, steps: Sequence[tuple[Any, Any, Any]]) -> dict[str, Any]:
        positions, slots = (np.concatenate([step[i] for step in steps]) for i in (0, 1))
        projections = np.concatenate([step[2] for step in steps], axis=1)
        axis_of: Any = self._sites[0].module.mooring_axis_of if self._sites else None
        return {
            "positions": positions.tolist(),
            "slots": slots.tolist(),
            "axis": int(axis_of[slots[-1]]) if axis_of is not None else 0,
            "projections": {s.layer: p.tolist() for s, p in zip(self._sites, projections, strict=True)},
            "lifts": {s.layer: _lifts(s, slots, p).tolist() for s, p in zip(self._sites, projections, strict=True)},
        }

    @property
    def active(self) -> bool:
        return bool(self._readings)

    def take(self, request_ids: Sequence[str], batch: Batch, rows: npt.NDArray[np.int32]) -> None:
        """Copy the watched rows of the step that has just run."""
        positions, stops = batch.positions(), np.cumsum(batch.scheduled)
        for request, stop, count in zip(request_ids, stops, batch.scheduled, strict=True):
            for prefix, seen in self._readings.items():
                if request.startswith(prefix):
                    span = slice(int(stop - count), int(stop))
                    seen.setdefault(request, []).append((positions[span], rows[span], self._projections(span)))

    def _projections(self, span: slice) -> npt.NDArray[np.float32]:
        if not self._sites:
            return np.zeros((0, span.stop - span.start), np.float32)
        values = [site.module.mooring_projections[span] for site in self._sites]
        return torch.stack(values).float().cpu().numpy()  # type: ignore[arg-type]


def _lifts(site: Site, slots: npt.NDArray[np.int32], projections: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the remap added to each row, from its projection and its slot."""
    remaps: torch.Tensor = site.module.mooring_remaps  # type: ignore[assignment]
    scale, shift, floor, ceiling = remaps.cpu().numpy()[slots].T
    return np.clip(scale * projections + shift, floor, ceiling) - projections
