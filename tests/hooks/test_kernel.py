"""The Triton kernel without a GPU: right under the interpreter, built as a GPU should get it, refused elsewhere."""

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import norms
from interpreter import run_tests
from mooring_axes.errors import CannotServe
from mooring_hooks import kernel

H200, BFLOAT16 = (9, 0), torch.bfloat16


def test_it_is_right_under_the_interpreter() -> None:
    run_tests("hooks/kernel_cases.py")


@pytest.mark.engine
def test_it_is_right_in_vllms_compiled_graph() -> None:
    run_tests("hooks/kernel_model_cases.py")


@pytest.mark.verify
def test_it_is_right_in_long_batches() -> None:
    run_tests("hooks/kernel_cases.py", "verify")


@pytest.mark.verify
def test_gemmas_norm_is_right_in_vllms_compiled_graph() -> None:
    run_tests("hooks/kernel_model_cases.py", "verify")


class Built(NamedTuple):
    """The kernel as Triton builds it for a GPU that need not be here."""

    ptx: str
    registers: int
    """Per thread."""
    stack: int
    """Bytes per thread; what did not fit into registers."""


def build(
    width: int, dtype: str, capability: int, folder: Path, function: Any = kernel._kernel, **switches: bool
) -> Built:
    block, names = triton.next_power_of_2(width), function.arg_names
    given = {"WIDTH": width, "BLOCK": block, "ONE_AXIS": False, "ONE_PLUS_WEIGHT": False, "EPS": 1e-6} | switches
    constants = {name: value for name, value in given.items() if name in names}
    kinds = dict.fromkeys(names, f"*{dtype}") | dict.fromkeys(constants, "constexpr")
    own = {"*i32": ("axis_of_ptr", "slots_ptr"), "*fp32": ("axes_ptr", "remaps_ptr", "projections_ptr")}
    kinds |= {name: kind for kind, those in own.items() for name in those if name in names}
    places = {name: (place,) for place, name in enumerate(names)}
    aligned = {places[name]: [["tt.divisibility", 16]] for name, kind in kinds.items() if kind.startswith("*")}
    source = ASTSource(function, kinds, {places[name]: value for name, value in constants.items()}, aligned)
    options = {"num_warps": kernel.warps_of(block), "enable_fp_fusion": True}
    made = triton.compile(source, GPUTarget("cuda", capability, 32), options).asm
    (folder / "kernel.cubin").write_bytes(made["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [tool, "-res-usage", folder / "kernel.cubin"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", told)
    return Built(made["ptx"], int(registers), int(stack))


@pytest.mark.parametrize(
    ("width", "dtype", "capability"),
    [(1000, "fp16", 75), (896, "bf16", 80), (5120, "bf16", 90), (8192, "bf16", 90), (16384, "fp32", 90),
     (16384, "bf16", 100)],
)  # fmt: skip
def test_a_row_stays_in_registers_and_moves_16_bytes_at_a_time_past_one_barrier(
    width: int, dtype: str, capability: int, tmp_path: Path
) -> None:
    built = build(width, dtype, capability, tmp_path)
    assert built.registers <= 64 and built.stack == 0
    assert built.ptx.count("bar.sync") == 1
    words = kernel.NUMBERS_PER_THREAD * (4 if dtype == "fp32" else 2) // 16
    axis = kernel.NUMBERS_PER_THREAD * 4 // 16
    assert len(re.findall(r"ld\.global\S*\.v4", built.ptx)) == 3 * words + axis  # x, residual, weight
    assert len(re.findall(r"st\.global\S*\.v4", built.ptx)) == 2 * words  # y and the capped residual


@pytest.mark.parametrize("switches", [{"ONE_AXIS": True}, {"ONE_PLUS_WEIGHT": True}], ids=str)
def test_tables_of_one_axis_and_gemmas_weight_are_no_heavier(switches: dict[str, bool], tmp_path: Path) -> None:
    built = build(8192, "bf16", 90, tmp_path, **switches)
    assert built.registers <= 64 and built.stack == 0 and built.ptx.count("bar.sync") == 1


def test_the_plain_norm_that_it_is_measured_against_is_built_as_well_as_it(tmp_path: Path) -> None:
    built = build(8192, "bf16", 90, tmp_path, norms._plain_kernel)
    assert built.registers <= 64 and built.stack == 0 and built.ptx.count("bar.sync") == 1
    assert len(re.findall(r"ld\.global\S*\.v4", built.ptx)) == 6


def test_every_width_up_to_the_widest_has_a_thread_for_each_16_numbers() -> None:
    assert [kernel.warps_of(2**k) for k in (6, 9, 10, 12, 13, 14)] == [1, 1, 2, 8, 16, 32]
    assert kernel.warps_of(kernel.MAX_WIDTH) * 32 * kernel.NUMBERS_PER_THREAD == kernel.MAX_WIDTH


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(capability) -> the device, as torch tells of it."""

    def found(capability: tuple[int, int]) -> torch.device:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
        return torch.device("cuda")

    return found


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), BFLOAT16), (H200, BFLOAT16)])
def test_gpus_that_compute_the_dtype_are_taken(gpu: Any, capability: tuple[int, int], dtype: torch.dtype) -> None:
    kernel.check(gpu(capability), dtype, 8192)


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "why"),
    [
        ((7, 0), torch.float16, 1024, r"float16 needs compute capability 7\.5, and Tesla V100 has 7\.0"),
        ((7, 5), BFLOAT16, 1024, r"bfloat16 needs compute capability 8\.0, and Tesla V100 has 7\.5"),
        (H200, torch.float64, 1024, "the model is in torch.float64"),
        (H200, BFLOAT16, 20480, "rows of up to 16384 numbers, and the model's have 20480"),
    ],
)
def test_what_it_cannot_run_on_is_refused(
    gpu: Any, capability: tuple[int, int], dtype: torch.dtype, width: int, why: str
) -> None:
    with pytest.raises(CannotServe, match=f"MOORING_KERNEL=triton.*{why}\n.*MOORING_KERNEL=inductor"):
        kernel.check(gpu(capability), dtype, width)
