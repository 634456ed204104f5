"""What the kernel must do, on a GPU where there is one and else under Triton's interpreter (test_kernel.py runs it).

    python -m pytest tests/hooks/kernel_cases.py        on a machine with CUDA; needs torch, triton, numpy, pytest
"""

import math
from typing import NamedTuple

import pytest
import torch

import decode_layers
import norms
from mooring_hooks.kernel import capped_add_rms_norm
from mooring_hooks.norm import SiteTables, reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INF = math.inf
REMAPS = [(1, 0, -INF, INF), (1, 0, 9, INF), (1, 0, -9, INF), (1, 0, -INF, -9), (1, 2, -INF, INF),
          (0, 0, -INF, INF), (0, 3, -INF, INF)]  # fmt: skip
"""Slots: off, floor that always lifts, floor that never does, ceiling, additive, ablation, mean-ablation."""
SLOTS = len(REMAPS)
WIDTHS = [896, 1000, 1001, 1024, 2304, 4096, 5120, 8192, 16384]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BEYOND = 3
"""Entries behind the batch, in buffers that are as long as the longest batch."""
EPS = 1e-6


class Result(NamedTuple):
    y: torch.Tensor
    capped: torch.Tensor
    projections: torch.Tensor


class Case(NamedTuple):
    """Input of one call, on the CPU."""

    x: torch.Tensor
    residual: torch.Tensor
    weight: torch.Tensor
    tables: SiteTables
    slots: torch.Tensor

    @classmethod
    def random(cls, rows: int, width: int, dtype: torch.dtype, axes: int = 3, seed: int = 0) -> "Case":
        torch.manual_seed(seed)
        x, residual = torch.randn(2, rows, width).to(dtype)
        weight = (torch.rand(width) + 0.5).to(dtype)
        directions = torch.nn.functional.normalize(torch.randn(axes, width), dim=-1)
        tables = SiteTables(directions, (torch.arange(SLOTS) % axes).int(), torch.tensor(REMAPS, dtype=torch.float32))
        return cls(x, residual, weight, tables, torch.randint(0, SLOTS, (rows,), dtype=torch.int32))

    def run(self, one_plus_weight: bool = False) -> Result:
        """On DEVICE, into outputs that hold NaN."""
        rows = len(self.slots)
        x, residual, weight, slots = (
            t.to(DEVICE) for t in (self.x, self.residual, self.weight, torch.nn.functional.pad(self.slots, (0, BEYOND)))
        )
        y, capped = torch.full_like(x, math.nan), torch.full_like(x, math.nan)
        projections = torch.full((rows + BEYOND,), math.nan, device=DEVICE)
        tables = [table.to(DEVICE) for table in self.tables]
        capped_add_rms_norm(x, residual, weight, EPS, one_plus_weight, *tables, slots, y, capped, projections)
        assert projections[rows:].isnan().all()
        return Result(y.cpu(), capped.cpu(), projections[:rows].cpu())

    def wanted(self, one_plus_weight: bool = False) -> Result:
        weight = self.weight.double() + 1 if one_plus_weight else self.weight
        return Result(*reference(self.x, self.residual, weight, EPS, self.tables, self.slots))


def check(case: Case, one_plus_weight: bool = False) -> None:
    """Within what rounding the outputs costs, number by number, and fp32's own error over the row."""
    found, wanted = case.run(one_plus_weight), case.wanted(one_plus_weight)
    unit = torch.finfo(case.x.dtype).eps
    # The interpreter cuts bf16 off where a GPU rounds it to the nearest; y is rounded twice.
    unit *= 1.0 if DEVICE.type == "cpu" else 0.5
    noise = 2e-6 * float(wanted.capped.abs().max())
    torch.testing.assert_close(found.capped.double(), wanted.capped, rtol=1.01 * unit, atol=noise)
    torch.testing.assert_close(found.y.double(), wanted.y, rtol=2.02 * unit + 1e-5, atol=noise)
    torch.testing.assert_close(found.projections.double(), wanted.projections, rtol=1e-5, atol=20 * noise)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_computes_the_definition(width: int, dtype: torch.dtype) -> None:
    check(Case.random(SLOTS, width, dtype)._replace(slots=torch.arange(SLOTS, dtype=torch.int32)))


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("axes", [1, 3, 7])
def test_any_mix_of_slots_and_axes(rows: int, axes: int) -> None:
    check(Case.random(rows, 96, torch.float32, axes, seed=rows + axes))


def test_an_empty_batch_writes_nothing() -> None:
    assert Case.random(0, 96, torch.float32).run().y.shape == (0, 96)


@pytest.mark.verify
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [128, 896])
def test_a_long_batch(width: int, dtype: torch.dtype) -> None:
    check(Case.random(8192, width, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1000, 2304])
def test_gemmas_weight_is_an_offset_from_one_and_multiplies_in_fp32(width: int, dtype: torch.dtype) -> None:
    check(Case.random(SLOTS, width, dtype), one_plus_weight=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_slot_0_are_the_plain_norm_to_the_bit(dtype: torch.dtype) -> None:
    """Whatever the axis says, and whatever the rows beside them are."""
    case = Case.random(16, 1000, dtype, axes=1)
    off = case._replace(slots=torch.zeros_like(case.slots))
    plain = off._replace(tables=off.tables._replace(axes=torch.zeros_like(off.tables.axes))).run()
    for other in (off.run(), case.run()):
        untouched = case.slots == 0 if other is not off else slice(None)
        assert torch.equal(other.y[untouched], plain.y[untouched])
        assert torch.equal(other.capped[untouched], plain.capped[untouched])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_slot_0_are_vllms_norm(dtype: torch.dtype) -> None:
    """The stream to the bit (but where the interpreter cuts it off), y but for the order of its sum and a rounding."""
    case = Case.random(16, 1000, dtype, axes=1)
    found = case._replace(slots=torch.zeros_like(case.slots)).run()
    y, stream = norms.plain(case.x, case.residual, case.weight)
    unit = torch.finfo(dtype).eps
    exact = dtype != torch.bfloat16 or DEVICE.type == "cuda"
    torch.testing.assert_close(found.capped, stream, rtol=0 if exact else unit, atol=0)
    torch.testing.assert_close(found.y, y, rtol=(2 if exact else 3) * unit + 2e-6, atol=0)


def test_another_slot_changes_its_own_row_and_no_bit_of_any_other() -> None:
    case = Case.random(16, 1000, torch.bfloat16)
    before = case._replace(slots=torch.zeros_like(case.slots)).run()
    for slot in (1, 3, 4, 5, 6):
        slots = torch.zeros_like(case.slots)
        slots[5] = slot
        after = case._replace(slots=slots).run()
        assert (after.capped != before.capped).any(-1).nonzero().flatten().tolist() == [5]
        assert (after.y != before.y).any(-1).nonzero().flatten().tolist() == [5]


def test_slots_that_share_an_axis_measure_the_same() -> None:
    case = Case.random(4, 1000, torch.float32, axes=1)
    case = case._replace(x=case.x[:1].expand(4, -1), residual=case.residual[:1].expand(4, -1))
    assert case._replace(slots=torch.tensor([0, 1, 3, 6], dtype=torch.int32)).run().projections.unique().numel() == 1


@pytest.mark.parametrize("left", [1e-1, 1e-2, 1e-3])
def test_what_a_cap_takes_away_costs_the_norm_that_much_accuracy_and_no_more(left: float) -> None:
    """Ablation of a stream that lies along the axis but for `left` of its length."""
    case = Case.random(1, 1024, torch.float32, axes=1)
    v = case.tables.axes[0]
    across = torch.nn.functional.normalize(case.x[0] - (case.x[0] @ v) * v, dim=0)
    stream = 100 * (v + left * across)
    case = case._replace(x=stream[None], residual=torch.zeros(1, 1024), slots=torch.tensor([5], dtype=torch.int32))
    found, wanted = case.run().y.double(), case.wanted().y
    assert float((found - wanted).norm() / wanted.norm()) < 16 * torch.finfo(torch.float32).eps / left**2


def test_a_stream_along_the_axis_can_be_ablated_without_nan() -> None:
    case = Case.random(2, 64, torch.float32, axes=1)
    stream = 1e4 * case.tables.axes[0].expand(2, 64)
    case = case._replace(x=stream, residual=torch.zeros(2, 64), slots=torch.tensor([5, 5], dtype=torch.int32))
    assert all(torch.isfinite(t).all() for t in case.run())


def test_rows_that_are_not_contiguous_are_read_rightly() -> None:
    case = Case.random(4, 96, torch.float32)
    wide = torch.randn(2, 4, 200)
    check(case._replace(x=wide[0, :, :96], residual=wide[1, :, 100:196]))


def test_the_operation_says_what_it_writes() -> None:
    case = Case.random(3, 64, torch.float32)
    rest = [t.to(DEVICE) for t in (*case.tables, case.slots)]
    x, residual, weight = (t.to(DEVICE) for t in case[:3])
    y, capped, projections = torch.empty_like(x), torch.empty_like(x), torch.empty(3, device=DEVICE)
    torch.library.opcheck(capped_add_rms_norm, (x, residual, weight, EPS, False, *rest, y, capped, projections))


class TwoSites(torch.nn.Module):
    """What a compiled model does with it: buffers that are written in place, twice, between matrix products."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        for name, table in case.tables._asdict().items():
            self.register_buffer(name, table)
        self.register_buffer("slots", case.slots)
        self.weight = torch.nn.Parameter(case.weight)
        self.matrix = torch.nn.Parameter(torch.randn(case.x.shape[1], case.x.shape[1]).to(case.x) / 10)
        for number in (0, 1):
            self.register_buffer(f"projections_{number}", torch.zeros(len(case.slots)))

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for projections in (self.projections_0, self.projections_1):
            x, residual = self.norm(x @ self.matrix, residual, projections)
        return x, residual

    def norm(
        self, x: torch.Tensor, residual: torch.Tensor, projections: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, capped = x.new_empty(x.shape), x.new_empty(x.shape)
        tables = self.axes, self.axis_of, self.remaps
        torch.ops.mooring.capped_add_rms_norm(
            x, residual, self.weight.data, EPS, False, *tables, self.slots, y, capped, projections
        )
        return y, capped


@pytest.mark.parametrize("functionalized", [1, 2])
def test_a_compiled_graph_calls_it_in_place_and_copies_nothing(functionalized: int) -> None:
    """In both of Inductor's ways to treat operations that write; vLLM chooses the first."""
    from torch._inductor import config
    from torch._inductor.utils import run_and_get_code

    case = Case.random(8, 64, torch.float32)
    model = TwoSites(case).to(DEVICE)
    x, residual = case.x.to(DEVICE), case.residual.to(DEVICE)
    torch._dynamo.reset()
    with torch.inference_mode(), config.patch(enable_auto_functionalized_v2=functionalized == 2):
        wanted = model(x, residual)
        projections = [model.projections_0.clone(), model.projections_1.clone()]
        found, code = run_and_get_code(torch.compile(model, dynamic=True, fullgraph=True), x, residual)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close([model.projections_0, model.projections_1], projections)
    calls = [line for line in code[0].splitlines() if "capped_add_rms_norm.default(" in line]
    written = [line.rsplit(",", 1)[1].strip(" )") for line in calls]
    assert len(calls) == 2 and all(name.startswith("arg") for name in written) and len(set(written)) == 2
    assert "copy_(" not in code[0] and "clone" not in code[0]


@pytest.mark.parametrize("arm", norms.ARMS)
def test_the_norms_that_the_benchmark_times_are_right(arm: str) -> None:
    site = norms.site_of(arm, 96, torch.float32, 200, DEVICE)
    x, residual = torch.randn(2, 150, 96, device=DEVICE)
    found = norms.errors(arm, norms.norm_of(arm, site, lambda function: function), site, x, residual)
    assert len(found) == (2 if arm in norms.PLAIN else 3)
    assert all(error < norms.TOLERANCES[torch.float32] for error in found.values())


def test_the_batches_that_the_benchmark_times_are_what_they_are_called() -> None:
    sites = {kind: norms.Site.random(96, torch.float32, 512, kind, DEVICE) for kind in norms.KINDS}
    assert sites["off"].slots.unique().tolist() == [0] and sites["one"].slots.unique().tolist() == [1]
    assert sites["many"].slots.unique().tolist() == list(range(128)) == sites["many"].tables.axis_of.tolist()
    assert [len(site.tables.axes) for site in sites.values()] == [1, 1, 128]
    x, residual = torch.randn(2, 512, 96, device=DEVICE)
    _, capped = norms.capped_inductor(x, residual, sites["one"])
    lifted = (capped != x + residual).any(-1).float().mean()
    assert 0.3 < float(lifted) < 0.7


def test_the_decode_layers_of_both_implementations_agree_and_are_capped() -> None:
    torch.manual_seed(0)
    shape = decode_layers.Shape(hidden=64, q=48, kv=16, intermediate=96, layers=4, sites=2)
    layers = [decode_layers.Layer.random(shape, torch.float32, DEVICE) for _ in range(2)]
    sites = [norms.Site.random(64, torch.float32, 8, "many", DEVICE) for _ in layers]
    pair = torch.randn(2, 8, 64, device=DEVICE).unbind()
    steps = {a: decode_layers.step_of(a, layers, sites, lambda function: function) for a in decode_layers.ARMS}
    plain, inductor, triton = (step(*pair) for step in steps.values())
    torch.testing.assert_close(triton, inductor, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain[0], inductor[0], atol=1e-2)
    assert shape.bytes_per_layer(4) == sum(4 * matrix.numel() for matrix in layers[0][:4])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA device")
def test_a_captured_graph_reads_its_slots_anew_at_each_replay() -> None:
    case = Case.random(8, 1024, torch.bfloat16)
    model = TwoSites(case).to(DEVICE)
    x, residual = case.x.to(DEVICE), case.residual.to(DEVICE)
    model(x, residual)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = model(x, residual)
    for seed in range(3):
        model.slots.copy_(Case.random(8, 1024, torch.bfloat16, seed=seed).slots)
        graph.replay()
        for one, other in zip(captured, model(x, residual), strict=True):
            assert torch.equal(one, other)
