"""benchmarks/kernel.py on fakes: what it makes of times, and runs that end early; its norms: hooks/test_kernel.py."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import kernel
import kernel_result
from kernel import CannotMeasure
from kernel_result import Cell, StackCell, cell_of, stack_cell_of, targets

BENCHMARKS = Path(kernel.__file__).parent
US = {"compiled": 10.0, "by-hand": 11.0, "inductor-off": 10.2, "inductor-one": 10.4, "inductor-many": 10.5,
      "triton-off": 10.1, "triton-one": 10.2, "triton-many": 10.6}  # fmt: skip


def blocks(us: Mapping[str, float], rounds: int = 4) -> list[dict[str, Any]]:
    """Of a machine that slows down from round to round."""
    return [{"round": r, "arm": arm, "us": value * (1 + r)} for r in range(rounds) for arm, value in us.items()]


def cell(rows: int = 64, hidden: int = 1024, roof: float = 4000.0, **us: float) -> Cell:
    named = {name.replace("_", "-"): value for name, value in us.items()}
    return cell_of(rows, hidden, 2, blocks(US | named), roof)


# --- what is made of times -----------------------------------------------------------------------


def test_ratios_are_taken_within_a_round_to_the_faster_plain_norm() -> None:
    found = cell()
    assert found.plain == "compiled"
    assert found.ratio["triton-one"]["median"] == pytest.approx(1.02)
    assert found.mixed["triton"]["median"] == pytest.approx(10.6 / 10.2, abs=1e-5)
    assert found.added_us["triton-one"] == pytest.approx(0.2 * 2.5)
    assert cell(by_hand=9.0).plain == "by-hand"


def test_bytes_are_those_that_must_move() -> None:
    stream, weight, slots_and_projections = 4 * 64 * 1024 * 2, 1024 * 2, 64 * 8
    assert kernel_result.bytes_moved(64, 1024, 2, axes=0) == stream + weight
    assert kernel_result.bytes_moved(64, 1024, 2, axes=1) == stream + weight + 4 * 1024 + slots_and_projections
    assert kernel_result.bytes_moved(64, 1024, 2, axes=128) == stream + weight + 64 * 4 * 1024 + slots_and_projections


def test_rates_are_held_against_the_copy() -> None:
    found = cell_of(64, 1024, 2, blocks(US, rounds=1), roof=100.0).arms["compiled"]
    assert found["gb_per_s"] == pytest.approx((4 * 64 * 1024 * 2 + 2048) / 10e3, abs=0.1)
    assert found["share_of_roof"] == pytest.approx(found["gb_per_s"] / 100, abs=1e-3)


def test_a_stacks_sites_are_counted_as_the_whole_model_has_them() -> None:
    us = {"plain": 1000.0, "inductor": 1020.0, "triton": 1010.0}
    found = stack_cell_of("m", 16, 10, 40, 4, [{"round": 0, "arm": arm, "us": value} for arm, value in us.items()])
    assert found.site_us == {"inductor": 2.0, "triton": 1.0}
    # 4 sites of 1 us in a step of 40 layers that take 100 us each.
    assert found.share == {"inductor": 0.002, "triton": 0.001}


def met(cells: list[Cell], stacks: list[StackCell] | None = None) -> dict[str, bool | None]:
    found = [t for t in targets(cells, stacks or []) if t["what"].startswith("triton")]
    return dict(zip(("ratio", "added", "mixed", "share"), (t["met"] for t in found), strict=True))


def test_targets_are_judged_by_their_worst_cell() -> None:
    assert met([cell()]) == {"ratio": True, "added": None, "mixed": None, "share": None}
    cells = [cell(), cell(hidden=8192, triton_one=10.6)]
    assert met(cells)["ratio"] is False
    (worst,) = [t for t in targets(cells, []) if t["what"].startswith("triton: of the plain norm's time")]
    assert (worst["at"], worst["kept"], worst["of"]) == ("64 x 8192", 1, 2)


def test_few_rows_are_judged_by_microseconds() -> None:
    assert met([cell(rows=8)]) == {"ratio": None, "added": True, "mixed": None, "share": None}
    assert met([cell(rows=8, triton_one=12.0)])["added"] is False


def test_mixed_slots_are_judged_where_there_is_a_row_for_each() -> None:
    assert met([cell(rows=128)])["mixed"] is False
    assert met([cell(rows=128, triton_many=10.3)])["mixed"] is True


def test_a_stack_is_judged_by_its_share() -> None:
    us = {"plain": 1000.0, "inductor": 1000.0, "triton": 1100.0}
    stack = [stack_cell_of("m", 16, 10, 40, 4, [{"round": 0, "arm": a, "us": value} for a, value in us.items()])]
    assert met([], stack)["share"] is False


# --- a run ---------------------------------------------------------------------------------------

DEVICE = {"name": "Fake", "capability": "9.0", "l2_bytes": 1 << 20, "cuda": "13.0"}


class Replays:
    """Stands for CUDA graphs: every arm takes what US says, times the rows."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.left = interrupt_at

    def __call__(self, calls: Any) -> Any:
        us = calls[0]()

        def replay() -> float:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            return float(us)

        return replay


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def use(interrupt_at: int | None = None) -> None:
        norms_of = {arm: lambda x, residual, us=us: us for arm, us in US.items()}
        monkeypatch.setattr(kernel, "device", lambda: DEVICE)
        monkeypatch.setattr(kernel, "copy_roof", lambda: 4000.0)
        monkeypatch.setattr(kernel, "prepare", lambda run, hidden: norms_of)
        monkeypatch.setattr(kernel, "inputs", lambda rows, hidden, dtype: torch.zeros(2, 1).unbind())
        monkeypatch.setattr(kernel, "captured", Replays(interrupt_at))

    yield use


ASKED = ["--rows", "8,256", "--hidden", "1024", "--rounds", "4", "--stack", "none"]


def test_a_run_ends_with_its_card_and_one_line_of_json(
    fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    assert kernel.main([*ASKED, "--out", str(tmp_path / "r.json")]) == 0
    told = capsys.readouterr().out
    result = json.loads(told.splitlines()[-1])
    assert result == json.loads((tmp_path / "r.json").read_text())
    assert result["partial"] is False and [c["rows"] for c in result["cells"]] == [8, 256]
    assert "| 256 | 10.00 | 11.00 |" in told and "## Targets" in told and "**NOT MET**" in told
    assert "faster than Inductor's fusion in 2 of 2" in told


def test_an_interrupted_run_keeps_what_it_has(fake: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(interrupt_at=len(US) * 5 + 3)
    assert kernel.main([*ASKED, "--out", str(tmp_path / "r.json")]) == 130
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["partial"] is True and [c["rows"] for c in result["cells"]] == [8]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


def test_arms_take_turns_in_an_order_that_favours_none() -> None:
    asked: list[str] = []
    times = {arm: lambda arm=arm: asked.append(arm) or 1.0 for arm in "ab"}
    found = kernel.take_turns(times, 4)
    assert "".join(asked) == "ab" + "abba" + "abba" and len(found) == 8


@pytest.mark.parametrize("error", [0.5, math.nan])
def test_a_norm_that_is_wrong_stops_the_run_before_anything_is_timed(error: float) -> None:
    run = kernel.Run(kernel.parse([]), {})
    kernel.check(run, "triton-one", 1024, {"y": 1e-4}, {torch.bfloat16: 1e-2})
    with pytest.raises(CannotMeasure, match="triton-one is wrong at hidden size 5120: its y .*nothing is timed"):
        kernel.check(run, "triton-one", 5120, {"y": error}, {torch.bfloat16: 1e-2})


def test_without_a_cuda_device_it_says_what_it_needs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernel.main(["--out", str(tmp_path / "r.json")]) == 2
    told = capsys.readouterr()
    assert "finds no CUDA device: this needs a CUDA device, torch built for CUDA, triton and numpy" in told.err
    assert told.out == "" and not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("words", [["--rows", "0"], ["--rows", "x"], ["--stack", "gpt"], ["--rounds", "-1"]])
def test_options_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        kernel.parse(words)
    assert stopped.value.code == 2


def test_it_needs_no_more_than_torch_triton_and_numpy() -> None:
    """As on a machine that has the GPU and nothing of Mooring's."""
    missing = ("vllm", "psutil", "aiohttp", "transformers", "pydantic", "safetensors", "msgspec", "yaml")
    script = f"import sys; sys.modules.update(dict.fromkeys({missing})); import kernel, norms, decode_layers"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script], cwd=BENCHMARKS, env=environment, check=True)
