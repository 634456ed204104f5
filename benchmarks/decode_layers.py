"""Decoder layers of the shapes of real models, for the cost of the cap in a whole decode step.

    x, residual = input norm (x, residual)        the arm's: plain, or capped in every layer
    x = (x @ qkv)[:, :q] @ o                      attention itself is left out
    x, residual = second norm (x, residual)       always plain
    x = (silu(x @ gate) * (x @ up)) @ down

Weights are random and every layer has its own, so that they come from memory at each step as a model's do. Attention,
embeddings and the output layer are left out: they only make a step longer, and what the cap adds a smaller share of it.

Every layer is capped, and not just those of a profile, so that what one site adds stands out from what two runs differ
by; a model of `sites` sites among `layers` layers is then computed:

    site    = (capped - plain) / layers that were run
    share   = site * sites / (plain / layers that were run * layers of the model)
"""

from typing import Final, NamedTuple

import torch

import norms
from norms import Compiler, Norm, Pair, Site


class Shape(NamedTuple):
    """Of a model; sites = the layers that its published cap acts on, and the monitored one."""

    hidden: int
    q: int
    """Query heads x head size; the matmul before attention makes q + 2 kv columns."""
    kv: int
    intermediate: int
    layers: int
    sites: int

    def bytes_per_layer(self, itemsize: int) -> int:
        return itemsize * self.hidden * (2 * self.q + 2 * self.kv + 3 * self.intermediate)


SHAPES: Final = {
    "qwen3-32b": Shape(hidden=5120, q=8192, kv=1024, intermediate=25600, layers=64, sites=9),
    "llama-3-70b": Shape(hidden=8192, q=8192, kv=1024, intermediate=28672, layers=80, sites=17),
}
ARMS: Final = ("plain", "inductor", "triton")


class Layer(NamedTuple):
    """Weights of one layer."""

    qkv: torch.Tensor
    o: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    second_norm: torch.Tensor

    @classmethod
    def random(cls, shape: Shape, dtype: torch.dtype, device: torch.device) -> "Layer":
        """Scaled so that a stream keeps its size."""

        def matrix(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, dtype=dtype, device=device).mul_(rows**-0.5)

        return cls(
            matrix(shape.hidden, shape.q + 2 * shape.kv),
            matrix(shape.q, shape.hidden),
            matrix(shape.hidden, 2 * shape.intermediate),
            matrix(shape.intermediate, shape.hidden),
            torch.ones(shape.hidden, dtype=dtype, device=device),
        )


def step_of(arm: str, layers: list[Layer], sites: list[Site], compiler: Compiler) -> Norm:
    """One pass through all layers, each compiled as a whole."""
    run = compiler({"plain": _plain, "inductor": _inductor, "triton": _triton}[arm])

    def step(x: torch.Tensor, residual: torch.Tensor) -> Pair:
        for layer, site in zip(layers, sites, strict=True):
            x, residual = run(x, residual, layer, site)
        return x, residual

    return step


def _plain(x: torch.Tensor, residual: torch.Tensor, layer: Layer, site: Site) -> Pair:
    return _rest(*norms.plain(x, residual, site.weight), layer)


def _inductor(x: torch.Tensor, residual: torch.Tensor, layer: Layer, site: Site) -> Pair:
    return _rest(*norms.capped_inductor(x, residual, site), layer)


def _triton(x: torch.Tensor, residual: torch.Tensor, layer: Layer, site: Site) -> Pair:
    return _rest(*norms.capped_triton(x, residual, site), layer)


def _rest(x: torch.Tensor, residual: torch.Tensor, layer: Layer) -> Pair:
    x = (x @ layer.qkv)[:, : layer.o.shape[0]] @ layer.o
    x, residual = norms.plain(x, residual, layer.second_norm)
    gate, up = (x @ layer.gate_up).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up) @ layer.down, residual
