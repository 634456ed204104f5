"""A cap that does not work stops the start, with a message that names the site."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import Engine, close
from mooring_axes.errors import CannotServe
from mooring_hooks import sites
from mooring_hooks.selftest import SelfTestFailed
from parity import layer_set_profiles
from tiny import make_model, random_axis

pytestmark = pytest.mark.engine
Folder = Callable[[str], Path]


def start(folder: Path, **options: Any) -> Engine:
    axis = random_axis()
    return Engine(folder, list(layer_set_profiles(axis, [0.0] * axis.n_layers).values()), dtype="float32", **options)


@pytest.fixture(autouse=True)
def _clean_up_after_a_failed_start() -> Any:
    from vllm.distributed import cleanup_dist_env_and_memory

    yield
    torch._dynamo.reset()
    cleanup_dist_env_and_memory()


def test_a_site_whose_cap_is_taken_away_by_hand_stops_the_start(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = sites._change

    def change_all_but_layer_3(site: sites.Site, *args: Any) -> None:
        stock = type(site.module)
        change(site, *args)
        if site.layer == 3:
            site.module.__class__ = stock

    monkeypatch.setattr(sites, "_change", change_all_but_layer_3)
    with pytest.raises(SelfTestFailed, match="the cap after layer 3 does not work: the module is a plain RMSNorm"):
        start(tiny_model("qwen3"))


def test_a_graph_compiled_without_the_cap_stops_the_start(tiny_model: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = sites.CappedRMSNorm.forward

    def forward_uncapped_when_compiled(self: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        if torch.compiler.is_compiling():
            stream = x + residual
            return stream * torch.rsqrt(stream.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight, stream
        return forward(self, x, residual)

    monkeypatch.setattr(sites.CappedRMSNorm, "forward", forward_uncapped_when_compiled)
    with pytest.raises(SelfTestFailed, match="the served graph"):
        start(tiny_model("qwen3"))


def test_a_cap_that_acts_without_effect_stops_the_start(tiny_model: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output site whose result is dropped: it records, and changes nothing."""
    forward = sites.CappedLayer.forward

    def forward_dropping(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = self.mooring_remaps.clone()
        kept[:] = torch.tensor([1.0, 0.0, float("-inf"), float("inf")])
        table, self.mooring_remaps = self.mooring_remaps, kept
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.mooring_remaps = table

    monkeypatch.setattr(sites.CappedLayer, "forward", forward_dropping)
    with pytest.raises(SelfTestFailed, match="raising its floor moved nothing behind it"):
        start(tiny_model("gpt2"), enforce_eager=True)


def test_a_site_disabled_while_serving_is_found_by_the_next_self_test(tiny_model: Folder) -> None:
    """Also: --enforce-eager works, the self-test leaves the profiles as they were, and another table is noticed."""
    engine = start(tiny_model("qwen3"), enforce_eager=True)
    before = [site.module.mooring_remaps.clone() for site in engine.worker.capping.sites]
    engine.worker.mooring_selftest()
    for site, table in zip(engine.worker.capping.sites, before, strict=True):
        assert torch.equal(site.module.mooring_remaps, table)
    assert not engine.worker.capping.rows.any()
    engine.worker.mooring_agree(engine.settings.to_json())
    with pytest.raises(ValueError, match="this worker has capping table .*, the server 0000"):
        engine.worker.mooring_agree(engine.settings.to_json() | {"table": "0" * 64})
    engine.worker.capping.sites[2].module.mooring_axes.zero_()
    with pytest.raises(SelfTestFailed, match="after layer 2"):
        engine.worker.reload_weights()
    with pytest.raises(CannotServe, match="the self-test has not passed, so no request is answered"):
        engine.answer([[1, 2, 3, 4, 5]], "all")
    close(engine.llm)


def test_the_cap_survives_a_reload_of_the_weights_and_is_tested_again(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(tiny_model("qwen3"), enforce_eager=True)
    (before,) = engine.answer([[1, 2, 3, 4, 5]], "all")
    engine.worker.reload_weights()
    engine.llm.reset_prefix_cache()
    (after,) = engine.answer([[1, 2, 3, 4, 5]], "all")
    assert list(after.outputs[0].token_ids) == list(before.outputs[0].token_ids)
    assert after.reading["lifts"] == before.reading["lifts"]
    tested = []
    monkeypatch.setattr(type(engine.worker), "mooring_selftest", lambda worker: tested.append("test"))
    engine.worker.reload_weights()
    engine.worker.sleep()
    engine.worker.reload_weights()
    engine.worker.wake_up(["weights"])
    assert tested == ["test"]
    engine.worker.wake_up(["kv_cache"])
    assert tested == ["test", "test"]
    engine.close()


def test_an_architecture_outside_the_table_is_served_if_its_layers_can_be_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sites.ARCHITECTURES, "GPT2LMHeadModel")
    engine = start(make_model("gpt2", tmp_path), enforce_eager=True)
    assert {site.kind for site in engine.worker.capping.sites} == {"layer_output"}
    engine.close()


def test_an_architecture_that_cannot_be_proven_is_refused_by_name(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sites.ARCHITECTURES, "LlamaForCausalLM")
    with pytest.raises(ValueError, match="LlamaForCausalLM is not in Mooring's table.*returns tuple, not one tensor"):
        start(tiny_model("llama"))


def test_a_worker_without_the_general_plugin_does_not_start(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_hooks.worker.installed", lambda: False)
    with pytest.raises(ValueError, match="mooring's general plugin was not loaded in this process"):
        start(tiny_model("qwen3"))
