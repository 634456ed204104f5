"""Known models: the published facts, the bytes that are accepted, and what is said without a network."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from mooring_axes import registry
from mooring_axes.artifact import Recommended
from mooring_axes.errors import CannotServe
from mooring_axes.registry import KnownModel, fetch, find, names

FILES = ("assistant_axis", "default_vector", "capping_config")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the dataset; 4 layers of width 33, capped at 1:3."""
    raw = torch.randn(4, 33, generator=torch.Generator().manual_seed(0))
    vectors = {f"layer_{i}/x": {"vector": -raw[i], "layer": i} for i in range(4)}
    interventions = [{"vector": f"layer_{i}/x", "cap": -2.0} for i in (1, 2)]
    config = {"vectors": vectors, "experiments": [{"id": "layers_1:3-p0.25", "interventions": interventions}]}
    (tmp_path / "small").mkdir()
    for name, content in zip(FILES, (raw, 2 * raw, config), strict=True):
        torch.save(content, tmp_path / "small" / f"{name}.pt")

    def download(repo_id: str, filename: str, **options: Any) -> str:
        assert options["repo_type"] == "dataset" and len(options["revision"]) == 40
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path


def _known(**change: Any) -> KnownModel:
    return KnownModel(
        **{
            "name": "small/assistant",
            "model": "example/small",
            "files": {f"small/{name}.pt": None for name in FILES},
            "n_layers": 4,
            "hidden_size": 33,
            "monitored_layer": 1,
            "recommended": "layers_1:3-p0.25",
            **change,
        }
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("model", "shape", "monitored", "recommended"),
    [
        ("Qwen/Qwen3-32B", (64, 5120), 32, "layers_46:54-p0.25"),
        ("meta-llama/Llama-3.3-70B-Instruct", (80, 8192), 40, "layers_56:72-p0.25"),
        ("google/gemma-2-27b-it", (46, 4608), 22, None),
    ],
)
def test_the_published_facts_are_these(model, shape, monitored, recommended):
    known = find(model)
    assert known is not None and find(known.name) is known and known.name in names()
    assert ((known.n_layers, known.hidden_size), known.monitored_layer, known.recommended) == (
        shape,
        monitored,
        recommended,
    )


def test_a_model_without_a_published_cap_says_so_and_has_no_config():
    gemma = find("google/gemma-2-27b-it")
    assert "no cap is published" in gemma.note
    assert not any("capping_config" in path for path in gemma.files)


def test_a_sha256_is_a_sha256_or_honestly_unknown():
    for name in names():
        for path, sha256 in find(name).files.items():
            assert sha256 is None or len(bytes.fromhex(sha256)) == 32, path


def test_an_unknown_model_is_not_guessed():
    assert find("Qwen/Qwen3-8B") is None and find("qwen/qwen3-32b") is None and find("") is None


def test_a_fetched_axis_has_cap_means_and_provenance(hub):
    pinned = {f"small/{name}.pt": None for name in FILES}
    pinned["small/assistant_axis.pt"] = _sha256(hub / "small" / "assistant_axis.pt")
    axis = fetch(_known(files=pinned))
    assert (axis.model, axis.monitored_layer, axis.n_layers) == ("example/small", 1, 4)
    assert axis.recommended == Recommended("1:3", "cap:layers_1:3-p0.25")
    assert axis.caps["layers_1:3-p0.25"] == {1: 2.0, 2: 2.0}
    assert axis.default_mean is not None and axis.role_mean is not None
    assert axis.provenance["dataset"] == f"{registry.REPO}@{registry.REVISION}"
    assert axis.provenance["pinned"] == (
        "sha256 pinned: assistant_axis.pt; sha256 not pinned: default_vector.pt, capping_config.pt"
    )


def test_a_model_without_a_cap_is_fetched_without_one(hub):
    files = {f"small/{name}.pt": None for name in FILES[:2]}
    axis = fetch(_known(files=files, recommended=None))
    assert not axis.caps and axis.recommended is None and axis.default_mean is not None


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_sha256_is_refused_before_it_is_read(hub, monkeypatch, name):
    wanted = "0" * 64
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("the file was read"))
    files = {f"small/{file}.pt": wanted if file == name else None for file in FILES}
    with pytest.raises(CannotServe, match="was not read: delete .* and fetch it again") as refusal:
        fetch(_known(files=files))
    found = _sha256(hub / "small" / f"{name}.pt")
    assert f"small/{name}.pt" in str(refusal.value) and f"sha256 {found}, wanted {wanted}" in str(refusal.value)


def test_a_published_axis_of_another_shape_than_recorded_is_refused(hub):
    with pytest.raises(CannotServe, match="4 layers, but example/small has 5"):
        fetch(_known(n_layers=5))


@pytest.mark.parametrize(
    "error", [OfflineModeIsEnabled("it is offline"), LocalEntryNotFoundError("not in the cache"), RuntimeError("x")]
)
def test_without_a_network_the_files_and_the_way_round_are_named(monkeypatch, error):
    def unreachable(*args: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(CannotServe, match=f"axis of Qwen/Qwen3-32B could not be fetched: {error}") as refusal:
        fetch(find("Qwen/Qwen3-32B"))
    for said in (*find("Qwen/Qwen3-32B").files, registry.REPO, registry.REVISION, "--axis FILE"):
        assert said in str(refusal.value)


def test_the_cache_folder_is_handed_to_the_hub(hub, tmp_path, monkeypatch):
    seen: list[object] = []
    download = huggingface_hub.hf_hub_download

    def spy(*args: Any, **options: Any) -> str:
        seen.append(options["cache_dir"])
        return download(*args, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", spy)
    fetch(_known(), cache_dir=tmp_path / "cache")
    assert set(seen) == {tmp_path / "cache"}


def test_a_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        find("Qwen/Qwen3-32B").revision = "main"
    with pytest.raises(TypeError):
        find("Qwen/Qwen3-32B").files["qwen-3-32b/assistant_axis.pt"] = None
