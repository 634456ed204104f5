"""benchmarks/peers.py: the numbers from rounds, and the cap that its own hooks compute."""

import json
import signal
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import peer
import peers
from mooring_axes import demo
from mooring_axes.profiles import Remap


def options(*arguments: str) -> Any:
    return peers.parse(["--pairs", "4", *arguments])


def blocks(speeds: dict[str, float]) -> list[dict[str, Any]]:
    return [{"arm": name, "round": r, "tokens_per_s": speed} for r in range(4) for name, speed in speeds.items()]


def test_a_ratio_is_a_peer_over_mooring_of_one_round() -> None:
    speeds = {"mooring": 100.0, "vllm": 102.0, "vllm-hooks": 50.0, "transformers": 20.0}
    agreed = {("mooring", "vllm"): [0.25, 0.75], ("vllm-hooks", "mooring"): [1.0]}
    found = peers.document(options(), blocks(speeds), agreed)
    assert {name: ratio["median"] for name, ratio in found["ratios"].items()} == {
        "mooring": 1.0, "vllm": 1.02, "vllm-hooks": 0.5, "transformers": 0.2,
    }  # fmt: skip
    card = peers.card(found)
    assert "| vllm-hooks | 50 | 0.500 (0.500 to 0.500) | 1.00 | - |" in card
    assert "itself against itself | - | 0.50 |" in card
    json.dumps(found)


def test_an_interrupted_run_is_marked() -> None:
    found = peers.document(options("--peers", "mooring,vllm"), blocks({"mooring": 100.0})[:1], {}, "interrupted")
    assert found["partial"] and "PARTIAL: interrupted" in peers.card(found)
    assert found["ratios"]["vllm"]["median"] is None and found["tokens_per_s"]["vllm"] is None


STAND_IN = """
import json, os, signal, sys
name = sys.argv[1]
print(json.dumps({"ready": name}), flush=True)
for number, line in enumerate(sys.stdin):
    if name == "vllm-hooks" and number == 2:
        sys.exit(1)
    if name == "transformers" and number == 2:
        os.kill(os.getppid(), getattr(signal, os.environ["ENDS_WITH"], 0))
    asked = json.loads(line)
    answer = [9 if name == "vllm" and place else asked["seed"] for place in range(asked["tokens"])]
    print("libraries print too", flush=True)
    print(json.dumps({"seconds": 0.5, "answers": [answer] * asked["requests"]}), flush=True)
"""


def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch, ends_with: str = "") -> None:
    """Peers that answer at once; `vllm-hooks` stops in its second round."""
    (folder / "peer.py").write_text(STAND_IN)
    monkeypatch.setattr(peers, "__file__", str(folder / "peers.py"))
    monkeypatch.setattr(peers, "FOLDER", folder)
    monkeypatch.setenv("ENDS_WITH", ends_with)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_peer_that_stops_leaves_the_others_and_its_own_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins(tmp_path, monkeypatch)
    out = tmp_path / "peers.json"
    assert peers.main(["--pairs", "4", "--tokens", "4", "--peers", "mooring,vllm,vllm-hooks", "--out", str(out)]) == 1
    found = last_line(capsys)
    assert found == json.loads(out.read_text())
    assert (found["partial"], found["stopped"]) == (True, "vllm-hooks stopped; see peer-vllm-hooks.log")
    assert Counter(block["arm"] for block in found["blocks"]) == {"mooring": 4, "vllm": 4, "vllm-hooks": 1}
    assert found["agreement"]["vllm-hooks"] == {"mooring": 1.0, "vllm": 0.25}
    assert found["agreement"]["mooring"]["vllm"] == 0.25, "what caps differs from stock"


@pytest.mark.parametrize("ends_with", ["SIGINT", "SIGTERM"])
def test_ctrl_c_keeps_the_rounds_that_are_done(
    ends_with: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may have it ignored
    stand_ins(tmp_path, monkeypatch, ends_with)
    assert peers.main(["--pairs", "500", "--tokens", "4", "--peers", "mooring,transformers"]) == 130
    signal.signal(signal.SIGINT, before)
    found = last_line(capsys)
    assert (found["partial"], found["stopped"]) == (True, "interrupted") and 2 <= len(found["blocks"]) <= 4


def test_answers_agree_until_they_part() -> None:
    assert peers.leading([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 0, 4], [5, 6, 7, 8]]) == 0.75
    assert peers.leading([[1, 2]], [[3, 2]]) == 0.0


def test_a_peer_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--peers", "mooring,tgi")
    assert "there is no peer 'tgi'" in capsys.readouterr().err


def test_the_hooks_cap_as_the_definition_says() -> None:
    rng = np.random.default_rng(1)
    v = rng.normal(size=16)
    v = torch.tensor(v / np.linalg.norm(v), dtype=torch.float32)
    stream = torch.tensor(rng.normal(size=(40, 16)), dtype=torch.float32)
    lift = peer.capped(stream, v, Remap(floor=0.25))
    after = (stream + lift[:, None] * v) @ v
    torch.testing.assert_close(after, (stream @ v).clamp(min=0.25))


def test_eager_hooks_cap_each_request_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a layer that hands on (hidden, residual), as vLLM's decoder layers do."""

    class Layer(torch.nn.Module):
        def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return hidden.clone(), residual

    subject = peer.subject_of("demo", Path())
    layers = torch.nn.ModuleList(Layer() for _ in range(subject.profile.axis.n_layers))
    worker: Any = peer.CapEagerly()
    model = types.SimpleNamespace(model=types.SimpleNamespace(layers=layers))
    worker.model_runner = types.SimpleNamespace(
        model=model,
        query_start_loc=types.SimpleNamespace(np=np.array([0, 1, 5, 5])),
        input_batch=types.SimpleNamespace(num_reqs=2),
    )
    assert worker.cap_eagerly("demo", ".") == len(subject.profile.remaps)
    layer, remap = next(iter(subject.profile.remaps.items()))
    v = torch.from_numpy(subject.profile.axis.directions[layer].copy())
    hidden, residual = torch.randn(6, len(v)), torch.randn(6, len(v))
    capped, _ = layers[layer](hidden, residual)
    wanted = ((hidden + residual) @ v).clamp(min=remap.floor)
    torch.testing.assert_close(((capped + residual) @ v)[:5], wanted[:5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(capped[5], hidden[5])


def test_a_subject_is_the_demo_and_its_default_cap() -> None:
    subject = peer.subject_of("demo", Path())
    assert subject.served == "demo" and subject.folder == str(demo.MODEL_DIR) and len(subject.profile.remaps) == 3
