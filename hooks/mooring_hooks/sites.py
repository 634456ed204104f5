"""Where "after decoder layer L" lives in a loaded model, and how the cap gets there.

Two kinds of site:

- `next_norm`: the layer returns (mlp_output, residual), not yet added; the stream first exists inside the next
  norm's fused add, `layers[L + 1].input_layernorm`, or the final norm after the last layer. That norm is changed.
- `layer_output`: the layer returns the whole stream; the operation goes around the layer's output.

An architecture's kind comes from the table below, where each row has its parity test, never from a signature:
a deferred layer and one that returns (stream, something else) look alike. A model that is not in the table is
served only if every layer returns one tensor and hands that very tensor on as the next layer's only stream,
which `prove_layer_outputs` watches in a run of the model; else it is refused by name.

Modules are changed in place, by class: names, parameters and their order stay, so that weight reload and LoRA
still find what they look for. Tables are buffers, so that sleep and wake-up restore them.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import nn

from mooring_axes.errors import CannotServe
from mooring_hooks.norm import SiteTables, capped_add_rms_norm, capped_stream
from mooring_hooks.table import INDUCTOR, TRITON, SlotTable


class Architecture(NamedTuple):
    """Where a model keeps its decoder layers, and what they return."""

    layers: str
    """Path of the list of decoder layers."""
    norm: str | None
    """Attribute of a layer that is its first norm: `next_norm`. None: `layer_output`."""
    final_norm: str = ""
    """Path of the norm after the last layer, for `next_norm`."""


_DEFERRED = Architecture("model.layers", "input_layernorm", "model.norm")

ARCHITECTURES: Final[dict[str, Architecture]] = {
    "Gemma2ForCausalLM": _DEFERRED,
    "LlamaForCausalLM": _DEFERRED,
    "MistralForCausalLM": _DEFERRED,
    "Qwen2ForCausalLM": _DEFERRED,
    "Qwen3ForCausalLM": _DEFERRED,
    # Returns (stream, the attention's input): it looks deferred and is not.
    "CohereForCausalLM": Architecture("model.layers", None),
    "GPT2LMHeadModel": Architecture("transformer.h", None),
}


class Site(NamedTuple):
    """A changed module."""

    layer: int
    module: nn.Module
    kind: str


class CapSite:
    """What every changed module carries; mixed in before the module's own class."""

    mooring_axes: torch.Tensor
    mooring_axis_of: torch.Tensor
    mooring_remaps: torch.Tensor
    mooring_rows: torch.Tensor
    mooring_projections: torch.Tensor

    def tables(self) -> SiteTables:
        return SiteTables(self.mooring_axes, self.mooring_axis_of, self.mooring_remaps)

    def record(self, projections: torch.Tensor) -> None:
        self.mooring_projections[: projections.shape[0]].copy_(projections)


class CappedRMSNorm(CapSite):
    """vLLM's RMSNorm with the cap in its add: the weight multiplies in the model's dtype."""

    def scale_weight(self) -> torch.Tensor:
        return self.weight.data  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        y, capped, projections = capped_add_rms_norm(
            x,
            _deferred(residual),
            self.scale_weight(),
            self.variance_epsilon,  # type: ignore[attr-defined]
            self.tables(),
            self.mooring_rows[: x.shape[0]],
        )
        self.record(projections)
        return y, capped


class CappedGemmaRMSNorm(CappedRMSNorm):
    """Gemma's variant: the weight is an offset from one and multiplies in fp32."""

    def scale_weight(self) -> torch.Tensor:
        return self.weight.float() + 1.0  # type: ignore[attr-defined]


class OneLaunch(CapSite):
    """Mixed in before a capped norm: the same by the kernel in kernel.py, which also records the projections."""

    one_plus_weight = False

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        y, capped = x.new_empty(x.shape), x.new_empty(x.shape)
        torch.ops.mooring.capped_add_rms_norm(
            x,
            _deferred(residual),
            self.weight.data,  # type: ignore[attr-defined]
            self.variance_epsilon,  # type: ignore[attr-defined]
            self.one_plus_weight,
            *self.tables(),
            self.mooring_rows,
            y,
            capped,
            self.mooring_projections,
        )
        return y, capped


class OneLaunchRMSNorm(OneLaunch, CappedRMSNorm):
    pass


class OneLaunchGemmaRMSNorm(OneLaunch, CappedGemmaRMSNorm):
    one_plus_weight = True


class CappedLayer(CapSite):
    """A decoder layer whose output, or the first of its outputs, is the whole stream."""

    def forward(self, *args: object, **kwargs: object) -> object:
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        stream = output if isinstance(output, torch.Tensor) else output[0]
        capped, projections = capped_stream(stream, self.tables(), self.mooring_rows[: stream.shape[0]])
        self.record(projections)
        return capped if isinstance(output, torch.Tensor) else (capped, *output[1:])


_NORMS: Final[dict[str, dict[str, type[CapSite]]]] = {
    INDUCTOR: {"RMSNorm": CappedRMSNorm, "GemmaRMSNorm": CappedGemmaRMSNorm},
    TRITON: {"RMSNorm": OneLaunchRMSNorm, "GemmaRMSNorm": OneLaunchGemmaRMSNorm},
}


def _deferred(residual: torch.Tensor | None) -> torch.Tensor:
    if residual is None:
        raise RuntimeError("a capped norm was called without a residual: this model's layers are not deferred")
    return residual


def install(
    model: nn.Module,
    table: SlotTable,
    rows: torch.Tensor,
    run: Callable[[], object],
    kernel: str = INDUCTOR,
) -> list[Site]:
    """Change the modules after the table's layers; `run` makes one uncompiled pass over the untouched model.

    `rows` is the (max_tokens,) int32 buffer that says which slot each row of the batch belongs to. Layers of
    other pipeline stages are skipped here and changed there.
    """
    name = type(model).__name__
    architecture = ARCHITECTURES.get(name) or prove_layer_outputs(model, table.model_layers, run)
    layers = _layers(model, architecture)
    if len(layers) != table.model_layers:
        raise CannotServe(
            f"{name} has {len(layers)} decoder layers, but the axis has {table.model_layers}\n"
            "  serve an axis that was extracted from this model"
        )
    sites = [_site(model, architecture, layers, layer) for layer in table.layers]
    local = [(index, site) for index, site in enumerate(sites) if not _elsewhere(site.module)]
    if kernel == TRITON:
        _check_kernel([site for _, site in local], rows.device, table.hidden_size)
    for index, site in local:
        _change(site, table, index, rows, kernel)
    return [site for _, site in local]


def prove_layer_outputs(model: nn.Module, n_layers: int, run: Callable[[], object]) -> Architecture:
    """Watch one pass: every layer must return one tensor that is the only stream its successor receives."""
    path = _only_layer_list(model, n_layers)
    layers = list(model.get_submodule(path))
    fault = watch_layers(layers, run)
    if fault is not None:
        raise CannotServe(
            f"{type(model).__name__} is not in Mooring's table of architectures, and its layers could not be proven "
            f"to hand on the whole residual stream: {fault}\n"
            f"  known are {', '.join(sorted(ARCHITECTURES))}"
        )
    return Architecture(path, None)


def watch_layers(layers: Sequence[nn.Module], run: Callable[[], object]) -> str | None:
    """What speaks against `layer_output` sites after one `run`, or None."""
    faults: list[str] = []
    last: list[torch.Tensor] = []

    def before(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        streams = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor) and a.is_floating_point()]
        if last and not (len(streams) == 1 and streams[0] is last[0]):
            faults.append(f"{type(module).__name__} received {len(streams)} streams, not its predecessor's output")

    def after(module: nn.Module, args: object, output: object) -> None:
        if not isinstance(output, torch.Tensor):
            faults.append(f"{type(module).__name__} returns {type(output).__name__}, not one tensor")
            return
        last[:] = [output]

    handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(after) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if not last and not faults:
        faults.append("no layer was called")
    return faults[0] if faults else None


def _only_layer_list(model: nn.Module, n_layers: int) -> str:
    paths = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if len(paths) != 1:
        raise CannotServe(
            f"{type(model).__name__} is not in Mooring's table of architectures and has {len(paths)} module lists of "
            f"{n_layers} layers, so its decoder layers cannot be told\n  known are {', '.join(sorted(ARCHITECTURES))}"
        )
    return paths[0]


def _layers(model: nn.Module, architecture: Architecture) -> Sequence[nn.Module]:
    return list(model.get_submodule(architecture.layers))  # type: ignore[arg-type]


def _site(model: nn.Module, architecture: Architecture, layers: Sequence[nn.Module], layer: int) -> Site:
    if architecture.norm is None:
        return Site(layer, layers[layer], "layer_output")
    if layer + 1 == len(layers):
        return Site(layer, model.get_submodule(architecture.final_norm), "next_norm")
    following = layers[layer + 1]
    return Site(layer, following if _elsewhere(following) else getattr(following, architecture.norm), "next_norm")


def _elsewhere(module: nn.Module) -> bool:
    """Whether a module is the stand-in for one on another pipeline stage."""
    return type(module).__name__ == "PPMissingLayer"


def _check_kernel(sites: Sequence[Site], device: torch.device, width: int) -> None:
    """Load the kernel, whose operation the sites then call; refuse sites and devices that it is not for."""
    if other := [site.layer for site in sites if site.kind != "next_norm"]:
        raise CannotServe(
            "MOORING_KERNEL=triton: the kernel is part of a norm, and this model is capped around the outputs of its "
            f"layers {other}\n  start with MOORING_KERNEL=inductor"
        )
    try:
        from mooring_hooks.kernel import check
    except ImportError as error:
        raise CannotServe(
            f"MOORING_KERNEL=triton: Triton cannot be imported: {error}\n"
            "  install the triton of this torch, or start with MOORING_KERNEL=inductor"
        ) from None
    for site in sites:
        check(device, next(site.module.parameters()).dtype, width)


def _change(site: Site, table: SlotTable, index: int, rows: torch.Tensor, kernel: str) -> None:
    module, stock = site.module, type(site.module)
    cap = CappedLayer if site.kind == "layer_output" else _NORMS[kernel].get(stock.__name__)
    if cap is None:
        raise CannotServe(
            f"the norm after layer {site.layer} is a {stock.__name__}, and Mooring caps {', '.join(_NORMS[kernel])}\n"
            "  start without the option that replaced the norm"
        )
    weight = next((p for p in module.parameters() if p.ndim == 1), None)
    if site.kind == "next_norm" and (weight is None or weight.shape[0] != table.hidden_size):
        raise CannotServe(
            f"the axis has width {table.hidden_size}, but the norm after layer {site.layer} has "
            f"{None if weight is None else weight.shape[0]}\n  serve an axis that was extracted from this model"
        )
    if getattr(module, "variance_size_override", None) is not None:
        raise CannotServe(f"the norm after layer {site.layer} takes its variance over a part of the stream only")
    buffers = {
        "mooring_axes": torch.from_numpy(table.axes[index].copy()),
        "mooring_axis_of": torch.from_numpy(table.axis_of.copy()),
        "mooring_remaps": torch.from_numpy(table.remaps[index].copy()),
        "mooring_rows": rows,
        "mooring_projections": torch.zeros(rows.shape[0], dtype=torch.float32),
    }
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor.to(rows.device), persistent=False)
    module.__class__ = _changed_class(cap, stock)


@cache
def _changed_class(cap: type[CapSite], stock: type[nn.Module]) -> type[nn.Module]:
    return type(f"Capped{stock.__name__}", (cap, stock), {})
