"""The operation: what the compiled graph is made from equals its definition, for every kind of row."""

import math

import pytest
import torch

from mooring_hooks.norm import SiteTables, capped_add_rms_norm, capped_stream, reference, remap
from mooring_hooks.sites import CappedGemmaRMSNorm

ROWS, INF = 7, math.inf
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (1e-2, 1e-2), torch.float16: (2e-3, 2e-3)}


def make_tables(width: int, axes: int) -> SiteTables:
    """Slots: off, floor that always lifts, floor that never does, ceiling, additive, ablation, mean-ablation."""
    rows = [(1, 0, -INF, INF), (1, 0, 9, INF), (1, 0, -9, INF), (1, 0, -INF, -9), (1, 2, -INF, INF),
            (0, 0, -INF, INF), (0, 3, -INF, INF)]  # fmt: skip
    directions = torch.nn.functional.normalize(torch.randn(axes, width), dim=-1)
    return SiteTables(directions, (torch.arange(ROWS) % axes).int(), torch.tensor(rows, dtype=torch.float32))


@pytest.fixture(params=[(96, torch.float32), (123, torch.float32), (1024, torch.bfloat16), (192, torch.float16)])
def batch(request: pytest.FixtureRequest) -> dict:
    """One row per slot."""
    torch.manual_seed(0)
    width, dtype = request.param
    x, residual = torch.randn(2, ROWS, width).to(dtype)
    return {
        "x": x,
        "residual": residual,
        "weight": torch.rand(width).to(dtype) + 0.5,
        "eps": 1e-6,
        "tables": make_tables(width, axes=1),
        "slots": torch.arange(ROWS, dtype=torch.int32),
    }


@pytest.mark.parametrize("axes", [1, 3])
def test_the_fused_form_equals_the_definition(batch: dict, axes: int) -> None:
    batch["tables"] = make_tables(batch["x"].shape[1], axes)
    atol, rtol = TOLERANCES[batch["x"].dtype]
    for found, wanted in zip(capped_add_rms_norm(**batch), reference(**batch), strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=atol * 10, rtol=rtol)


def test_compiling_changes_nothing_that_matters(batch: dict) -> None:
    compiled = torch.compile(capped_add_rms_norm, dynamic=True, fullgraph=True)
    for found, wanted in zip(compiled(**batch), capped_add_rms_norm(**batch), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-2 if found.dtype != torch.float32 else 1e-4, rtol=1e-2)


def test_slot_0_keeps_every_bit_of_the_stream_beside_capped_rows(batch: dict) -> None:
    plain = (batch["x"].float() + batch["residual"].float()).to(batch["x"].dtype)
    _, capped, _ = capped_add_rms_norm(**batch)
    assert (capped != plain).any(-1).tolist() == [False, True, False, True, True, True, True]


def test_no_row_ends_below_its_floor_and_capping_again_changes_nothing(batch: dict) -> None:
    _, capped, _ = capped_add_rms_norm(**batch)
    rounding = torch.finfo(capped.dtype).eps * float(capped.float().norm(dim=-1).max())
    assert float(capped[1].float() @ batch["tables"].axes[0]) >= 9 - rounding
    again, projections = capped_stream(capped, batch["tables"], batch["slots"])
    assert float(projections[1]) >= 9 - rounding
    torch.testing.assert_close(again[1].float(), capped[1].float(), atol=rounding, rtol=rounding)


def test_what_is_orthogonal_to_the_axis_is_kept(batch: dict) -> None:
    stream = batch["x"].float() + batch["residual"].float()
    v = batch["tables"].axes[0]
    changed = remap(stream, batch["tables"], batch["slots"]).stream - stream
    torch.testing.assert_close(changed, (changed @ v)[:, None] * v, atol=1e-4, rtol=1e-4)


def test_a_stream_parallel_to_the_axis_can_be_ablated_without_nan() -> None:
    tables = make_tables(64, axes=1)
    stream = 1e4 * tables.axes[0].expand(ROWS, 64).contiguous()
    slots = torch.full((ROWS,), 5, dtype=torch.int32)
    y, _, _ = capped_add_rms_norm(stream, torch.zeros_like(stream), torch.ones(64), 1e-6, tables, slots)
    assert torch.isfinite(y).all()


def test_gemmas_weight_is_an_offset_from_one() -> None:
    module = type("Norm", (CappedGemmaRMSNorm, torch.nn.Module), {})()
    module.weight = torch.nn.Parameter(torch.full((4,), 0.25, dtype=torch.bfloat16))
    assert module.scale_weight().tolist() == [1.25] * 4 and module.scale_weight().dtype == torch.float32
