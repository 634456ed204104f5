"""From an answer's rows to what its reply says: means, lifts and drift, as DESIGN defines them.

projection   mean over the answer's tokens of <h, axis> at a layer, before that layer's cap
lift         what the cap added to a token at a layer: 0 where it was above the floor
drift        (default_mean - projection) / (default_mean - role_mean) at the monitored layer
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mooring_hooks.inbox import Rows
from mooring_hooks.table import SlotTable

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one answer; T tokens, S sites. The means are None where no token was measured."""

    tokens: int
    complete: bool
    """Whether every position that should have a reading has one."""
    projection: float | None
    """At the monitored layer."""
    drift: float | None
    """None also where the axis has no means to measure it by."""
    lifted_share: float | None
    """Of the tokens, those that were lifted at one layer or more."""
    mean_lift: float | None
    """Over tokens and the layers that the profile acts on; 0 where it acts on none."""
    layers: dict[int, tuple[float, float, float]]
    """Layer -> mean projection, mean lift, share of lifted tokens."""
    index: npt.NDArray[np.int32]
    """(T,) which generated token; 0 is the first."""
    projections: FloatArray
    """(S, T)"""
    lifts: FloatArray
    """(S, T)"""


class Measure:
    """Turns rows into readings with the numbers that the workers cap by."""

    def __init__(self, table: SlotTable) -> None:
        self.layers = table.layers
        self.monitored = table.layers.index(table.monitored_layer)
        self._remaps = [np.moveaxis(table.remaps[:, slot, :, None], 1, 0) for slot in range(table.slots)]
        """Per slot: scale, shift, floor and ceiling, each (S, 1)."""
        self._acts = table.acts
        self._touches = table.acts.any(axis=0).tolist()
        """Per slot: whether it acts anywhere."""
        self._shares = table.acts / np.maximum(table.acts.sum(axis=0), 1)
        """(S, slots): what each layer counts in the mean over those that the slot acts on."""
        means = [(a.default_mean, a.role_mean) for a in table.axis_facts]
        self._means = [None if d is None or r is None else (d[self.monitored], r[self.monitored]) for d, r in means]
        self._axis_of = table.axis_of

    def monitored_after_cap(self, slot: int) -> bool:
        """Whether a profile acts before the monitored layer, so that drift already contains its lifts."""
        return bool(self._acts[: self.monitored, slot].any())

    def read(self, rows: Rows, slot: int, complete: bool) -> Reading:
        """`slot` is the answer's profile; every row is judged by the slot it ran in."""
        lifts = self.lifts(rows)
        if not len(rows):
            return Reading(0, complete, None, None, None, None, {}, rows.index, rows.projections, lifts)
        count, lifted = len(rows), lifts != 0
        means = np.add.reduce(rows.projections, axis=1, dtype=np.float64) / count
        lift = np.add.reduce(lifts, axis=1, dtype=np.float64) / count
        share = np.add.reduce(lifted, axis=1, dtype=np.float64) / count
        projection = float(means[self.monitored])
        return Reading(
            tokens=count,
            complete=complete,
            projection=projection,
            drift=self._drift(projection, slot),
            lifted_share=np.count_nonzero(np.logical_or.reduce(lifted, axis=0)) / count,
            mean_lift=float(lift @ self._shares[:, slot]),
            layers=dict(zip(self.layers, zip(means.tolist(), lift.tolist(), share.tolist(), strict=True), strict=True)),
            index=rows.index,
            projections=rows.projections,
            lifts=lifts,
        )

    def lifts(self, rows: Rows) -> FloatArray:
        """(S, T)"""
        first = int(rows.slots[0]) if len(rows) else 0
        if (rows.slots == first).all():  # as nearly always
            return self._lifts_in(first, rows.projections)
        found = np.zeros_like(rows.projections)
        for slot in {*rows.slots.tolist()}:
            ran = rows.slots == slot
            found[:, ran] = self._lifts_in(slot, rows.projections[:, ran])
        return found

    def _lifts_in(self, slot: int, projections: FloatArray) -> FloatArray:
        if not self._touches[slot]:
            return np.zeros_like(projections)
        scale, shift, floor, ceiling = self._remaps[slot]
        lifts: FloatArray = np.minimum(np.maximum(scale * projections + shift, floor), ceiling) - projections
        return lifts

    def _drift(self, projection: float, slot: int) -> float | None:
        means = self._means[int(self._axis_of[slot])]
        return None if means is None else float((means[0] - projection) / (means[0] - means[1]))
