"""Where the cap is put, and what is refused; toy modules, no vLLM."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from mooring_axes.errors import CannotServe
from mooring_axes.profiles import Profile, off_profile, resolve
from mooring_hooks.sites import ARCHITECTURES, CappedLayer, CappedRMSNorm, install, watch_layers
from mooring_hooks.table import SlotTable
from tiny import LAYERS, WIDTH, random_axis


class RMSNorm(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6


class Layer(nn.Module):
    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.input_layernorm = norm or RMSNorm()

    def forward(self, positions: torch.Tensor, stream: torch.Tensor) -> Any:
        return stream + 1


class Sneaky(Layer):
    """Hands its successor something else than what it returned."""

    def forward(self, positions: torch.Tensor, stream: torch.Tensor) -> Any:
        return (stream, stream)


def model(name: str, layers: list[nn.Module] | None = None) -> nn.Module:
    top, body = type(name, (nn.Module,), {})(), nn.Module()
    body.layers, body.norm = nn.ModuleList(layers or [Layer() for _ in range(LAYERS)]), RMSNorm()
    top.model = body
    return top


def table(layers: str = "0:6") -> SlotTable:
    axis = random_axis()
    return SlotTable.build([off_profile(axis), resolve(Profile(name="a", layers=layers, floor=0.0), axis)])


def run(top: Any) -> None:
    stream = torch.zeros(2, WIDTH)
    for layer in top.model.layers:
        stream = layer(torch.arange(2), stream)
        stream = stream[0] if isinstance(stream, tuple) else stream


ROWS = torch.zeros(8, dtype=torch.int32)


def test_the_cap_after_layer_l_is_in_the_norm_of_layer_l_plus_1_and_the_last_in_the_final_norm() -> None:
    top: Any = model("LlamaForCausalLM")
    sites = install(top, table(), ROWS, lambda: None)
    norms = [*(layer.input_layernorm for layer in top.model.layers[1:]), top.model.norm]
    assert [site.module for site in sites] == norms
    assert all(isinstance(norm, CappedRMSNorm) for norm in norms)
    assert not isinstance(top.model.layers[0].input_layernorm, CappedRMSNorm)


def test_names_and_parameters_stay_what_they_were() -> None:
    top, plain = model("LlamaForCausalLM"), model("LlamaForCausalLM")
    install(top, table(), ROWS, lambda: None)
    assert [n for n, _ in top.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert list(top.state_dict()) == list(plain.state_dict())


def test_all_sites_read_one_row_buffer() -> None:
    sites = install(model("LlamaForCausalLM"), table(), ROWS, lambda: None)
    assert {site.module.mooring_rows.data_ptr() for site in sites} == {ROWS.data_ptr()}


def test_a_stage_of_a_pipeline_changes_only_its_own_norms() -> None:
    class PPMissingLayer(nn.Module):
        pass

    top = model("LlamaForCausalLM", [PPMissingLayer() for _ in range(3)] + [Layer() for _ in range(3)])
    assert [site.layer for site in install(top, table(), ROWS, lambda: None)] == [2, 3, 4, 5]


def test_an_axis_of_another_layer_count_is_refused() -> None:
    with pytest.raises(CannotServe, match="LlamaForCausalLM has 4 decoder layers, but the axis has 6"):
        install(model("LlamaForCausalLM", [Layer() for _ in range(4)]), table("2"), ROWS, lambda: None)


def test_an_axis_of_another_width_is_refused() -> None:
    narrow = model("LlamaForCausalLM", [Layer(RMSNorm(64)) for _ in range(LAYERS)])
    with pytest.raises(CannotServe, match="axis has width 96, but the norm after layer 1 has 64"):
        install(narrow, table("2"), ROWS, lambda: None)


def test_a_norm_that_somebody_replaced_is_refused_by_name() -> None:
    replaced = model("LlamaForCausalLM", [Layer(nn.LayerNorm(WIDTH)) for _ in range(LAYERS)])
    with pytest.raises(CannotServe, match="after layer 1 is a LayerNorm, and Mooring caps RMSNorm, GemmaRMSNorm"):
        install(replaced, table("2"), ROWS, lambda: None)


def test_an_unknown_model_is_served_where_each_layer_hands_on_its_one_output() -> None:
    top = model("NovelForCausalLM")
    sites = install(top, table("2:4"), ROWS, lambda: run(top))
    assert [site.kind for site in sites] == ["layer_output"] * 3
    assert all(isinstance(site.module, CappedLayer) for site in sites)


def test_an_unknown_model_that_returns_more_is_refused_by_name() -> None:
    top = model("NovelForCausalLM", [Sneaky() for _ in range(LAYERS)])
    with pytest.raises(CannotServe, match="NovelForCausalLM is not in Mooring's table(.|\n)*known are"):
        install(top, table("2"), ROWS, lambda: run(top))


def test_an_unknown_model_without_one_list_of_layers_is_refused() -> None:
    top = model("NovelForCausalLM")
    top.twin = nn.ModuleList(nn.Identity() for _ in range(LAYERS))
    with pytest.raises(CannotServe, match="has 2 module lists of 6 layers"):
        install(top, table("2"), ROWS, lambda: run(top))


def test_a_stream_that_takes_another_way_is_noticed() -> None:
    layers = [Layer(), Layer()]

    def bypass() -> None:
        layers[0](torch.arange(2), torch.zeros(2, WIDTH))
        layers[1](torch.arange(2), torch.zeros(2, WIDTH))

    assert "not its predecessor's output" in str(watch_layers(layers, bypass))
    assert watch_layers(layers, lambda: None) == "no layer was called"


def test_a_capped_norm_called_without_a_residual_says_so() -> None:
    (site, *_) = install(model("LlamaForCausalLM"), table("2"), ROWS, lambda: None)
    with pytest.raises(RuntimeError, match="layers are not deferred"):
        site.module(torch.zeros(2, WIDTH))


def test_every_row_of_the_table_of_architectures_has_a_parity_test() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from tiny import CONFIGS

    tested = {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[make().model_type] for make in CONFIGS.values()}
    assert set(ARCHITECTURES) == tested


def test_the_kernel_refuses_a_model_on_the_cpu_before_it_is_changed() -> None:
    top: Any = model("LlamaForCausalLM")
    with pytest.raises(CannotServe, match="needs a CUDA device, and the model is on cpu"):
        install(top, table(), ROWS, lambda: None, kernel="triton")
    assert type(top.model.norm).__name__ == "RMSNorm"


def test_the_kernel_refuses_a_model_that_is_capped_around_its_layers() -> None:
    with pytest.raises(CannotServe, match=r"part of a norm.*layers \[0, 1, 2, 3, 4, 5\]\n"):
        install(model("CohereForCausalLM"), table(), ROWS, lambda: None, kernel="triton")


def test_the_kernel_is_refused_where_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mooring_hooks.kernel", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(CannotServe, match="Triton cannot be imported.*\n.*MOORING_KERNEL=inductor"):
        install(model("LlamaForCausalLM"), table(), ROWS, lambda: None, kernel="triton")
