"""The operation itself: remap the projection of the residual stream on an axis, then normalise.

    r  = x + residual                                the stream that leaves decoder layer L
    p  = <r, v>                                      the projection, recorded before the cap
    q  = clamp(scale * p + shift, floor, ceiling)    `floor` alone is the paper's cap
    r' = r + (q - p) v                               what is orthogonal to v is kept
    y  = r' / sqrt(mean(r'^2) + eps) * w             the norm that is there anyway

Because |v| = 1, |r'|^2 = |r|^2 + q^2 - p^2: the norm needs no second reduction over r', so p and |r|^2 come
out of the one pass that RMSNorm makes, and the compiler fuses the rest into its pointwise loop. kernel.py is the same
by hand, for CUDA devices, where MOORING_KERNEL=triton asks for it.

    x, residual, y   (T, H)     model dtype
    axes             (A, H)     fp32, distinct unit rows pointing TOWARD the Assistant
    axis_of          (P,)       int32, row of `axes` that a slot uses
    remaps           (P, 4)     fp32, a slot's scale, shift, floor, ceiling; slot 0 is (1, 0, -inf, inf)
    slots            (T,)       int32, the profile each row of the batch belongs to

Slot 0 leaves every bit of r as it was: q = 1 * p + 0, so q - p = 0 and r + 0 * v = r.
Source: Lu et al. 2026, arXiv:2601.10387 (floor); the rest of the remap is the same rank-one update.
"""

from typing import NamedTuple

import torch


class SiteTables(NamedTuple):
    """What one site needs to know about every slot; shapes and dtypes stand in the head of this file."""

    axes: torch.Tensor
    axis_of: torch.Tensor
    remaps: torch.Tensor


class Remapped(NamedTuple):
    """A stream after the remap."""

    stream: torch.Tensor
    """(T, H) fp32."""
    projections: torch.Tensor
    """(T,) fp32, before the remap."""
    squares_added: torch.Tensor
    """(T,) fp32, q^2 - p^2: by how much the remap changed |r|^2; exactly 0 where q = p."""


def remap(stream: torch.Tensor, tables: SiteTables, slots: torch.Tensor) -> Remapped:
    """Apply every row's own remap to `stream` (T, H) fp32."""
    slots = slots.long()
    # With one axis for all slots there is nothing to gather: a row of H floats per token stays unread.
    axis = tables.axes[0] if tables.axes.shape[0] == 1 else tables.axes[tables.axis_of[slots].long()]
    scale, shift, floor, ceiling = tables.remaps[slots].unbind(-1)
    p = (stream * axis).sum(-1)
    q = torch.minimum(torch.maximum(scale * p + shift, floor), ceiling)
    # As a product: q * q - p * p is not 0 for q = p where a compiler fuses a multiplication with the minus.
    return Remapped(stream + (q - p)[:, None] * axis, p, (q - p) * (q + p))


def capped_add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    tables: SiteTables,
    slots: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (y, capped residual, projections). `weight` is in the dtype its model multiplies in.

    The arithmetic around the cap is vLLM's own (add and variance in fp32 from the unrounded sum, the weight
    applied in its dtype), so that slot 0 equals the stock norm.
    """
    stream = x.float() + residual.float()
    mean_square = stream.pow(2).mean(-1)
    capped, projections, squares_added = remap(stream, tables, slots)
    # The closed form can fall a rounding below zero where the stream is almost parallel to the axis.
    mean_square = (mean_square + squares_added / stream.shape[-1]).clamp(min=0.0)
    y = capped * torch.rsqrt(mean_square + eps)[:, None]
    return (y.to(weight.dtype) * weight).to(x.dtype), capped.to(x.dtype), projections


def capped_stream(stream: torch.Tensor, tables: SiteTables, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (capped stream, projections) for a layer that hands on the whole stream, with no norm to fuse into."""
    capped, projections, _ = remap(stream.float(), tables, slots)
    return capped.to(stream.dtype), projections


def reference(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    tables: SiteTables,
    slots: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The definition every other path is tested against: fp64, row by row, no closed form."""
    rows, streams, projections = [], [], []
    for x_row, residual_row, slot in zip(x.double(), residual.double(), slots.tolist(), strict=True):
        stream = x_row + residual_row
        v = tables.axes[int(tables.axis_of[slot])].double()
        scale, shift, floor, ceiling = tables.remaps[slot].double().tolist()
        p = float(stream @ v)
        stream = stream + (min(max(scale * p + shift, floor), ceiling) - p) * v
        rows.append(stream / (stream.square().mean() + eps).sqrt() * weight.double())
        streams.append(stream)
        projections.append(p)
    return torch.stack(rows), torch.stack(streams), torch.tensor(projections, dtype=torch.float64)
