"""The norms that benchmarks/kernel.py compares: functions of (x, residual) that return (y, new residual).

    compiled     vLLM's native add + RMSNorm, by torch.compile
    by-hand      the same in Triton, written as Mooring's kernel is, without the cap
    inductor     mooring_hooks.norm by torch.compile: what is served by default
    triton       mooring_hooks.kernel: what MOORING_KERNEL=triton serves

and of the last two, three kinds of batch:

    off          every row in slot 0, of a table with one axis: measured, never touched
    one          every row in slot 1 of the same table, with a floor that lifts about half of the rows
    many         rows of 128 slots, each with an axis of its own
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl

from mooring_hooks.kernel import capped_add_rms_norm, warps_of
from mooring_hooks.norm import SiteTables, reference
from mooring_hooks.norm import capped_add_rms_norm as fused

PLAIN: Final = ("compiled", "by-hand")
OURS: Final = ("inductor", "triton")
KINDS: Final = ("off", "one", "many")
ARMS: Final = (*PLAIN, *(f"{ours}-{kind}" for ours in OURS for kind in KINDS))
EPS: Final = 1e-6
SLOTS, MANY_SLOTS = 16, 128
TOLERANCES: Final = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest ||found - wanted|| / ||wanted||."""

Pair = tuple[torch.Tensor, torch.Tensor]
Norm = Callable[[torch.Tensor, torch.Tensor], Pair]
Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


class Site(NamedTuple):
    """What a capped norm holds besides its input."""

    weight: torch.Tensor
    tables: SiteTables
    slots: torch.Tensor
    projections: torch.Tensor

    @classmethod
    def random(cls, width: int, dtype: torch.dtype, rows: int, kind: str, device: torch.device) -> "Site":
        """Floors of 0: projections of random streams lie on both sides of it."""
        slots, axes = (MANY_SLOTS, MANY_SLOTS) if kind == "many" else (SLOTS, 1)
        directions = torch.nn.functional.normalize(torch.randn(axes, width, device=device), dim=-1)
        axis_of = torch.arange(slots, dtype=torch.int32, device=device) % axes
        remaps = torch.tensor([1.0, 0.0, 0.0, torch.inf], device=device).repeat(slots, 1)
        remaps[0, 2] = -torch.inf
        which = {"off": torch.zeros(rows), "one": torch.ones(rows), "many": torch.randperm(rows) % MANY_SLOTS}[kind]
        weight = (torch.rand(width, device=device) + 0.5).to(dtype)
        recorded = torch.full((rows,), torch.nan, device=device)
        return cls(weight, SiteTables(directions, axis_of, remaps), which.int().to(device), recorded)


def plain(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Pair:
    """vLLM's arithmetic: the sum in fp32, its variance before it is rounded, the weight in its own dtype."""
    stream = x.float() + residual.float()
    y = stream * torch.rsqrt(stream.pow(2).mean(-1, keepdim=True) + EPS)
    return (y.to(weight.dtype) * weight).to(x.dtype), stream.to(x.dtype)


@triton.jit
def _plain_kernel(
    x_ptr, residual_ptr, weight_ptr, y_ptr, added_ptr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    live = column < WIDTH
    here = tl.program_id(0).to(tl.int64) * WIDTH + column
    x = tl.load(x_ptr + here, live, 0.0, eviction_policy="evict_first")
    residual = tl.load(residual_ptr + here, live, 0.0, eviction_policy="evict_first")
    weight = tl.load(weight_ptr + column, live, 0.0, eviction_policy="evict_last")
    stream = x.to(tl.float32) + residual.to(tl.float32)
    normed = stream * tl.rsqrt(tl.sum(stream * stream) / WIDTH + EPS)
    y = normed.to(weight.dtype).to(tl.float32) * weight.to(tl.float32)
    tl.store(added_ptr + here, stream.to(added_ptr.dtype.element_ty), live)
    tl.store(y_ptr + here, y.to(y_ptr.dtype.element_ty), live)


def plain_by_hand(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Pair:
    y, added = x.new_empty(x.shape), x.new_empty(x.shape)
    block = triton.next_power_of_2(x.shape[1])
    _plain_kernel[(x.shape[0],)](
        x, residual, weight, y, added, WIDTH=x.shape[1], BLOCK=block, EPS=EPS,
        num_warps=warps_of(block), enable_fp_fusion=True,
    )  # fmt: skip
    return y, added


def capped_inductor(x: torch.Tensor, residual: torch.Tensor, site: Site) -> Pair:
    y, capped, projections = fused(x, residual, site.weight, EPS, site.tables, site.slots[: x.shape[0]])
    site.projections[: x.shape[0]].copy_(projections)
    return y, capped


def capped_triton(x: torch.Tensor, residual: torch.Tensor, site: Site) -> Pair:
    y, capped = x.new_empty(x.shape), x.new_empty(x.shape)
    capped_add_rms_norm(x, residual, site.weight, EPS, False, *site.tables, site.slots, y, capped, site.projections)
    return y, capped


def norm_of(arm: str, site: Site, compiler: Compiler) -> Norm:
    """`compiler` is torch.compile with its options."""
    match arm.partition("-"):
        case ("compiled", _, _):
            function = compiler(plain)
            return lambda x, residual: function(x, residual, site.weight)
        case ("by", _, _):
            return partial(plain_by_hand, weight=site.weight)
        case ("inductor", _, _):
            function = compiler(capped_inductor)
            return lambda x, residual: function(x, residual, site)
        case ("triton", _, _):
            return partial(capped_triton, site=site)
    raise ValueError(f"there is no arm {arm!r}; there are {', '.join(ARMS)}")


def site_of(arm: str, width: int, dtype: torch.dtype, rows: int, device: torch.device) -> Site:
    """A plain norm takes no more than the weight of it."""
    return Site.random(width, dtype, rows, "off" if arm in PLAIN else arm.partition("-")[2], device)


def errors(arm: str, norm: Norm, site: Site, x: torch.Tensor, residual: torch.Tensor) -> dict[str, float]:
    """||found - wanted|| / ||wanted|| of each output against the definition in fp64; NaN where nothing was written."""
    site.projections.fill_(torch.nan)
    torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)  # freed at once: the outputs get this memory
    found = [*norm(x, residual), site.projections[: len(x)]]
    wanted = reference(x, residual, site.weight, EPS, site.tables, site.slots[: len(x)])
    names = ("y", "residual", "projections")[: 2 if arm in PLAIN else 3]
    return {name: distance(one, other) for name, one, other in zip(names, found, wanted, strict=False)}


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double().cpu() - wanted.cpu()).norm() / wanted.cpu().norm())
