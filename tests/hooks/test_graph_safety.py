"""What a CUDA graph may capture: a capped norm, traced on tensors that have no values.

A captured graph is replayed with the addresses of its capture and without the host. So the norm may write to no
buffer but its own projections, must move nothing to the host, and must not decide anything by a value: PyTorch's
meta tensors have none, and raise where one is asked for or copied away. test_batching.py shows that the buffers
stay where they are.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mooring_axes.profiles import Profile, off_profile, resolve
from mooring_hooks import sites
from mooring_hooks.sites import CapSite, install
from mooring_hooks.table import INDUCTOR, TRITON, SlotTable
from tiny import LAYERS, WIDTH, random_axis

DEVICE = torch.device("meta")
ROWS = 16


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(WIDTH)), 1e-6


class Layer(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = norm

    def forward(self, positions: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        return stream + 1


def capped(kind: str, axes: int, kernel: str = INDUCTOR) -> nn.Module:
    """The first changed module of a toy model, all of it without values."""
    norm = type(kind, (Norm,), {})
    top, body = type("LlamaForCausalLM" if "Norm" in kind else "GPT2LMHeadModel", (nn.Module,), {})(), nn.Module()
    body.layers = body.h = nn.ModuleList(Layer(norm()) for _ in range(LAYERS))
    body.norm, top.model, top.transformer = norm(), body, body
    profiles = [resolve(Profile(name=f"a{i}", layers="2:4", floor=0.5), random_axis(seed=i)) for i in range(axes)]
    table = SlotTable.build([off_profile(random_axis()), *profiles])
    site = install(top, table, torch.zeros(64, dtype=torch.int32, device=DEVICE), lambda: None, kernel)[0]
    return site.module.to(DEVICE)


class Watched(TorchDispatchMode):
    """Notes what every operation writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[torch.Tensor] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        for argument, value in zip(operation._schema.arguments, given, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written.append(value)
        return operation(*args, **(kwargs or {}))


def trace(module: nn.Module, change: Callable[[CapSite, torch.Tensor], None] = lambda *_: None) -> Watched:
    """One pass; `change` is something more that the module does."""
    stream, residual = torch.empty(2, ROWS, WIDTH, dtype=torch.bfloat16, device=DEVICE)
    with torch.no_grad(), Watched() as watched:
        module(residual, stream)
        change(module, stream)  # type: ignore[arg-type]
    return watched


def elsewhere(module: nn.Module, watched: Watched) -> list[tuple[int, ...]]:
    """Shapes of what was written outside of the projections."""
    storage = module.mooring_projections.untyped_storage()._cdata  # type: ignore[operator, union-attr]
    return [tuple(t.shape) for t in watched.written if t.untyped_storage()._cdata != storage]


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("kind", ["RMSNorm", "GemmaRMSNorm", "Layer"])
def test_a_capped_module_writes_to_its_projections_alone_and_asks_the_host_for_nothing(kind: str, axes: int) -> None:
    module = capped(kind, axes)
    watched = trace(module)
    assert watched.written and elsewhere(module, watched) == []


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("kind", ["RMSNorm", "GemmaRMSNorm"])
def test_one_launch_writes_to_its_projections_and_to_the_two_tensors_that_it_returns(
    kind: str, axes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mooring_hooks.kernel  # noqa: F401, registers the operation

    monkeypatch.setattr(sites, "_check_kernel", lambda *_: None)  # that there is a device for it
    module = capped(kind, axes, TRITON)
    stream, residual = torch.empty(2, ROWS, WIDTH, dtype=torch.bfloat16, device=DEVICE)
    with torch.no_grad(), Watched() as watched:
        returned = module(residual, stream)
    own = {t.untyped_storage()._cdata for t in (*returned, module.mooring_projections)}  # type: ignore[union-attr]
    assert len(watched.written) == 3 and {t.untyped_storage()._cdata for t in watched.written} == own


def test_the_trace_sees_a_write_elsewhere() -> None:
    module = capped("RMSNorm", axes=1)
    assert elsewhere(module, trace(module, lambda norm, stream: norm.mooring_axes.add_(1))) == [(1, WIDTH)]


@pytest.mark.parametrize("change", [lambda norm, stream: stream.cpu(), lambda norm, stream: stream.sum().item()])
def test_the_trace_does_not_survive_what_needs_a_value(change: Any) -> None:
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        trace(capped("RMSNorm", axes=1), change)
