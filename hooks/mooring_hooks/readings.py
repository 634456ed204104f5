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
        """What was seen: request id -> positions (T,), slots (T,), projections {layer: (T,)}, as plain lists."""
        return {
            request: {
                "positions": np.concatenate([s[0] for s in steps]).tolist(),
                "slots": np.concatenate([s[1] for s in steps]).tolist(),
                "projections": {
                    site.layer: np.concatenate([s[2][i] for s in steps]).tolist() for i, site in enumerate(self._sites)
                },
            }
            for request, steps in self._readings.pop(prefix, {}).items()
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
        values = [site.module.mooring_projections[span] for site in self._sites]
        return torch.stack(values).float().cpu().numpy()  # type: ignore[arg-type]
