"""The operation of norm.py as one Triton launch: add, projection, remap, RMSNorm, recorded projection.

    r  = x + residual            in fp32, never rounded before the norm
    p  = <r, v>, |r|^2           both out of one reduction
    q  = clamp(scale * p + shift, floor, ceiling)
    r' = r + (q - p) v           |r'|^2 = |r|^2 + (q - p)(q + p)
    y  = r' / sqrt(|r'|^2 / H + eps) * w

One program holds one row of up to 16384 numbers in registers: x, residual, w and v are read once, y and r' written
once, with one barrier between (tests/hooks/test_kernel.py reads this off the machine code). Beside the plain norm's
traffic, 4 H numbers of the model's dtype per row, that is H fp32 numbers of an axis, which stays in cache as the weight
does: 128 axes of 8192 are 4 MiB. A row of slot 0 reads its axis as well, because it is measured; its q - p is 0, so no
bit of r changes.

    x, residual, y, r'   (T, H)   bf16, fp16 or fp32; y and r' contiguous
    w                    (H,)     plain: y is rounded to w's dtype, then multiplied; Gemma: 1 + w, in fp32
    axes, axis_of, remaps, slots    as in norm.py; `slots` and `projections` may be longer than T
    projections          fp32, the first T are overwritten

The closed form loses |r|^2 / |r'|^2 in relative accuracy: a cap that takes 99 % of |r|^2 away leaves five digits of y.
It is clamped at 0, where norm.py clamps it. Nothing waits for the device, and of contiguous rows, as vLLM's are,
nothing is allocated, so that CUDA graphs can capture it; as a custom operation it stays one call, in place, inside a
compiled graph.

Inductor's fusion of norm.py is the default, and this is chosen by MOORING_KERNEL=triton, because neither has been
measured on a GPU yet: benchmarks/kernel.py does it.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from mooring_axes.errors import CannotServe

MAX_WIDTH: Final = 16384
NUMBERS_PER_THREAD: Final = 16
"""In 16-byte loads, and within 64 registers: an SM then holds 1024 threads, which is two rows of 8192."""
MAX_WARPS: Final = 32
OLDEST: Final = {torch.float32: (7, 5), torch.float16: (7, 5), torch.bfloat16: (8, 0)}
"""Compute capability from which on a dtype is computed."""


@triton.jit
def _kernel(
    x_ptr, residual_ptr, weight_ptr, axes_ptr, axis_of_ptr, remaps_ptr, slots_ptr,
    y_ptr, capped_ptr, projections_ptr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ONE_AXIS: tl.constexpr, ONE_PLUS_WEIGHT: tl.constexpr,
    # A constant, because Inductor would hand over a float of another width than an eager launch does.
    EPS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < WIDTH
    here = row * WIDTH + column

    # Everything is asked for before the reduction: a small batch waits for memory, not for its bandwidth.
    x = tl.load(x_ptr + here, live, 0.0, eviction_policy="evict_first")
    residual = tl.load(residual_ptr + here, live, 0.0, eviction_policy="evict_first")
    axis = 0 if ONE_AXIS else tl.load(axis_of_ptr + slot).to(tl.int64)
    v = tl.load(axes_ptr + axis * WIDTH + column, live, 0.0, eviction_policy="evict_last")
    weight = tl.load(weight_ptr + column, live, 0.0, eviction_policy="evict_last")
    scale = tl.load(remaps_ptr + slot * 4)
    shift = tl.load(remaps_ptr + slot * 4 + 1)
    floor = tl.load(remaps_ptr + slot * 4 + 2)
    ceiling = tl.load(remaps_ptr + slot * 4 + 3)

    stream = x.to(tl.float32) + residual.to(tl.float32)
    # Joined, the two sums share their shuffles through memory: one barrier instead of three.
    p, squares = tl.split(tl.sum(tl.join(stream * v, stream * stream), axis=0))
    q = tl.minimum(tl.maximum(scale * p + shift, floor), ceiling)
    stream += (q - p) * v
    # As a product, because q * q - p * p is not 0 for q = p once the compiler fuses a multiplication and the minus.
    mean_square = tl.maximum((squares + (q - p) * (q + p)) / WIDTH, 0.0)
    normed = stream * tl.rsqrt(mean_square + EPS)
    if ONE_PLUS_WEIGHT:
        y = normed * (weight.to(tl.float32) + 1.0)
    else:
        y = normed.to(weight.dtype).to(tl.float32) * weight.to(tl.float32)

    tl.store(capped_ptr + here, stream.to(capped_ptr.dtype.element_ty), live)
    tl.store(y_ptr + here, y.to(y_ptr.dtype.element_ty), live)
    tl.store(projections_ptr + row, p)


def warps_of(block: int) -> int:
    return max(1, min(block // (32 * NUMBERS_PER_THREAD), MAX_WARPS))


def _launch(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, one_plus_weight: bool,
    axes: torch.Tensor, axis_of: torch.Tensor, remaps: torch.Tensor, slots: torch.Tensor,
    y: torch.Tensor, capped: torch.Tensor, projections: torch.Tensor,
) -> None:  # fmt: skip
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _kernel[(rows,)](
        x.contiguous(), residual.contiguous(), weight, axes, axis_of, remaps, slots, y, capped, projections,
        WIDTH=width, BLOCK=block, ONE_AXIS=axes.shape[0] == 1, ONE_PLUS_WEIGHT=one_plus_weight, EPS=eps,
        num_warps=warps_of(block), enable_fp_fusion=True,
    )  # fmt: skip


# By these functions and not by the decorator `custom_op`, whose calls take several times as long: outside of CUDA
# graphs that is on the way of every capped layer. The caller makes y and r', so that a compiled graph plans their
# memory and knows their alignment.
_NAME: Final = "mooring::capped_add_rms_norm"
torch.library.define(
    _NAME,
    "(Tensor x, Tensor residual, Tensor weight, float eps, bool one_plus_weight, Tensor axes, Tensor axis_of, "
    "Tensor remaps, Tensor slots, Tensor(a!) y, Tensor(b!) capped, Tensor(c!) projections) -> ()",
)
torch.library.impl(_NAME, ("cpu", "cuda"), _launch)
torch.library.register_fake(_NAME, lambda *tensors: None)
capped_add_rms_norm: Final = torch.ops.mooring.capped_add_rms_norm.default
"""Write y, the capped residual and the projections."""


def check(device: torch.device, dtype: torch.dtype, width: int) -> None:
    """Refuse what the kernel cannot run on."""
    if width > MAX_WIDTH:
        raise _refused(f"it holds rows of up to {MAX_WIDTH} numbers, and the model's have {width}")
    if dtype not in OLDEST:
        raise _refused(f"it computes {', '.join(map(str, OLDEST))}, and the model is in {dtype}")
    if triton.knobs.runtime.interpret:
        return
    if device.type != "cuda":
        raise _refused(f"it needs a CUDA device, and the model is on {device}")
    found, wanted = torch.cuda.get_device_capability(device), OLDEST[dtype]
    if found < wanted:
        name = torch.cuda.get_device_name(device)
        raise _refused(f"{dtype} needs compute capability {_dotted(wanted)}, and {name} has {_dotted(found)}")


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _refused(why: str) -> CannotServe:
    return CannotServe(f"MOORING_KERNEL=triton: the kernel cannot run: {why}\n  start with MOORING_KERNEL=inductor")
