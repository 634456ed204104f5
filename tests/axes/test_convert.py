"""The authors' files: their ceiling is our floor, signs are seen, and no pickle runs."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mooring_axes.artifact import Axis, Recommended
from mooring_axes.convert import from_assistant_axis, from_capping_config
from mooring_axes.errors import CannotServe
from mooring_axes.profiles import recommended_profile, resolve

N_LAYERS, HIDDEN, MODEL = 6, 33, "example/small"


def _name(layer: int) -> str:
    return f"layer_{layer}/contrast_role_pos3_default1"


@pytest.fixture
def raw() -> torch.Tensor:
    """Rows that point toward the Assistant, of lengths far from 1."""
    generator = torch.Generator().manual_seed(0)
    return 5 * torch.randn(N_LAYERS, HIDDEN, generator=generator)


@pytest.fixture
def config(raw: torch.Tensor) -> dict[str, Any]:
    """In the authors' layout: vectors role - default (nearly the axis turned round), windows of 2 x p of 4.

    The cap at layer L is -8 - L for p0.01, -4 - L for p0.25, -2 - L for p0.5, -1 - L for p0.75.
    """
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(1))
    caps = {"0.01": -8.0, "0.25": -4.0, "0.5": -2.0, "0.75": -1.0}
    return {
        "vectors": {_name(i): {"vector": -(raw[i] + 0.3 * noise[i]) * (i + 1), "layer": i} for i in range(N_LAYERS)},
        "experiments": [
            {
                "id": f"layers_{start}:{start + 2}-p{p}",
                "interventions": [{"vector": _name(i), "cap": cap - i} for i in (start, start + 1)],
            }
            for start in range(N_LAYERS - 1)
            for p, cap in caps.items()
        ],
    }


@pytest.fixture
def save(tmp_path: Path):
    def _save(content: object, name: str = "file.pt") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return _save


# --- what is converted ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("wrapped", [False, True], ids=["tensor", "dict"])
def test_an_axis_file_keeps_its_directions_and_its_lengths(save, raw, dtype, wrapped):
    raw = raw.to(dtype)
    axis = from_assistant_axis(save({"axis": raw, "metadata": {"model": "x"}} if wrapped else raw), model=MODEL)
    rows = raw.double().numpy()
    np.testing.assert_allclose(axis.norms, np.linalg.norm(rows, axis=1), rtol=1e-6)
    np.testing.assert_allclose(axis.directions * axis.norms[:, None], rows, rtol=1e-5, atol=1e-6)
    assert (axis.model, axis.monitored_layer, axis.caps, axis.recommended) == (MODEL, 3, {}, None)
    assert axis.default_mean is None and not axis.percentiles


def test_the_monitored_layer_may_be_given_and_is_checked(save, raw):
    assert from_assistant_axis(save(raw), model=MODEL, monitored_layer=1).monitored_layer == 1
    with pytest.raises(CannotServe, match=r"file.pt cannot be converted: monitored_layer is 6, .* 0 to 5"):
        from_assistant_axis(save(raw), model=MODEL, monitored_layer=6)


def test_their_ceiling_is_our_floor(save, config):
    """h - max(<h,u> - cap, 0) u on their vectors = h - min(<h,v> - floor, 0) v on ours, for any h."""
    axis = from_capping_config(save(config), model=MODEL, recommended="layers_3:5-p0.25")
    remaps = resolve(recommended_profile(axis), axis).remaps
    streams = np.random.default_rng(2).normal(scale=4, size=(1000, HIDDEN))
    for intervention in config["experiments"][13]["interventions"]:
        stored = config["vectors"][intervention["vector"]]
        u = stored["vector"].double().numpy()
        u /= np.linalg.norm(u)
        theirs = streams - np.maximum(streams @ u - intervention["cap"], 0)[:, None] * u
        v, floor = axis.directions[stored["layer"]].astype(np.float64), remaps[stored["layer"]].floor
        ours = streams - np.minimum(streams @ v - floor, 0)[:, None] * v
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        lifted = (streams @ v < floor).mean()
        assert 0.5 < lifted < 1  # both branches are taken, and the floor is high: p25 is no rare event
    assert config["experiments"][13]["id"] == "layers_3:5-p0.25" and sorted(remaps) == [3, 4]


def test_every_experiment_becomes_a_cap_with_the_sign_turned(save, config):
    axis = from_capping_config(save(config), model=MODEL)
    assert len(axis.caps) == 20
    assert axis.caps["layers_3:5-p0.25"] == {3: 7.0, 4: 8.0}
    for layer in range(N_LAYERS):
        stored = config["vectors"][_name(layer)]["vector"].double().numpy()
        np.testing.assert_allclose(axis.directions[layer], -stored / np.linalg.norm(stored), atol=1e-6)
        assert axis.norms[layer] == pytest.approx(np.linalg.norm(stored))


def test_their_p_becomes_the_share_above(save, config):
    """p0.25 on the reversed axis is the ordinary 75th percentile on ours: 4 + layer."""
    table = from_capping_config(save(config), model=MODEL).percentiles["all"]
    np.testing.assert_allclose(table.shares, [0.25, 0.5, 0.75, 0.99])
    assert table.values[3].tolist() == [4.0, 5.0, 7.0, 11.0]


def test_the_recommended_cap_is_the_same_as_the_profile_form_p25(save, config):
    axis = from_capping_config(save(config), model=MODEL, recommended="layers_3:5-p0.25")
    assert axis.recommended == Recommended("3:5", "cap:layers_3:5-p0.25")
    by_name = recommended_profile(axis)
    by_percentile = by_name.model_copy(update={"floor": "p25"})
    assert resolve(by_name, axis).remaps == resolve(by_percentile, axis).remaps


def test_a_p_on_which_windows_disagree_leaves_the_table_and_stays_a_cap(save, config):
    config["experiments"][5]["interventions"][0]["cap"] += 0.5  # layers_1:3-p0.25, which shares layer 1 with 0:2
    axis = from_capping_config(save(config), model=MODEL)
    np.testing.assert_allclose(axis.percentiles["all"].shares, [0.25, 0.5, 0.99])
    assert axis.caps["layers_1:3-p0.25"] == {1: 4.5, 2: 6.0}


def test_windows_that_leave_a_layer_out_make_no_table(save, config):
    config["experiments"] = config["experiments"][4:]
    axis = from_capping_config(save(config), model=MODEL)
    assert not axis.percentiles and len(axis.caps) == 16


def test_an_id_outside_the_grammar_is_kept_as_a_name(save, config):
    config["experiments"] = [{"id": "mine", "interventions": [{"vector": _name(i), "cap": 1.0} for i in (4, 1)]}]
    axis = from_capping_config(save(config), model=MODEL, recommended="mine")
    assert axis.caps == {"mine": {1: -1.0, 4: -1.0}}
    assert axis.recommended == Recommended("1,4", "cap:mine")


def test_interventions_without_a_cap_are_skipped(save, config):
    config["experiments"] += [
        {"id": "baseline", "interventions": []},
        {"id": "noted", "interventions": [{"vector": _name(2)}, {"vector": _name(3), "cap": -1.0}]},
    ]
    caps = from_capping_config(save(config), model=MODEL).caps
    assert "baseline" not in caps and caps["noted"] == {3: 1.0}


def test_the_same_cap_said_twice_is_one_cap(save, config):
    config["vectors"]["again"] = {"vector": 7 * config["vectors"][_name(3)]["vector"], "layer": 3}
    config["experiments"][13]["interventions"].append({"vector": "again", "cap": -7.0})
    assert from_capping_config(save(config), model=MODEL).caps["layers_3:5-p0.25"] == {3: 7.0, 4: 8.0}


def test_a_cap_stored_as_a_tensor_of_one_number_is_a_number(save, config):
    config["experiments"][13]["interventions"][0]["cap"] = torch.tensor(-7.0)
    assert from_capping_config(save(config), model=MODEL).caps["layers_3:5-p0.25"] == {3: 7.0, 4: 8.0}


def test_both_ways_of_giving_both_files_are_one(save, raw, config):
    files = {"axis": save(raw, "axis.pt"), "config": save(config, "config.pt")}
    one = from_assistant_axis(files["axis"], model=MODEL, capping_config=files["config"])
    other = from_capping_config(files["config"], model=MODEL, axis_path=files["axis"])
    assert one.digest == other.digest
    alone = from_capping_config(files["config"], model=MODEL)
    assert (one.directions == alone.directions).all(), "the caps were measured on the config's vectors"
    np.testing.assert_allclose(one.norms, np.linalg.norm(raw.double().numpy(), axis=1), rtol=1e-6)


def test_layers_without_a_vector_take_the_row_of_the_axis_file(save, raw, config):
    del config["vectors"][_name(0)]
    config["experiments"] = config["experiments"][4:]
    path = save(config, "config.pt")
    with pytest.raises(CannotServe, match=r"layers \[0\] have no vector: give the model's assistant_axis.pt too"):
        from_capping_config(path, model=MODEL)
    axis = from_capping_config(path, model=MODEL, axis_path=save(raw, "axis.pt"))
    row = raw[0].double().numpy()
    np.testing.assert_allclose(axis.directions[0], row / np.linalg.norm(row), atol=1e-6)


@pytest.mark.parametrize("with_config", [False, True])
def test_a_default_vector_gives_drift_its_two_ends(save, raw, config, with_config):
    default = torch.randn(raw.shape, generator=torch.Generator().manual_seed(3))
    axis = from_assistant_axis(
        save(raw, "axis.pt"),
        model=MODEL,
        capping_config=save(config, "config.pt") if with_config else None,
        default_vector=save(default, "default.pt"),
    )
    v = axis.directions.astype(np.float64)
    np.testing.assert_allclose(axis.default_mean, (default.double().numpy() * v).sum(1), rtol=1e-5)
    np.testing.assert_allclose(axis.role_mean, ((default - raw).double().numpy() * v).sum(1), rtol=1e-4)
    assert (axis.default_mean > axis.role_mean).all()
    assert axis.provenance["default_vector"].startswith("default.pt sha256:")


def test_a_default_vector_of_another_shape_or_without_an_axis_is_refused(save, raw, config):
    default = save(raw[:, :32].clone(), "default.pt")
    with pytest.raises(CannotServe, match=r"default vector has shape \(6, 32\), the axis \(6, 33\)"):
        from_assistant_axis(save(raw, "axis.pt"), model=MODEL, default_vector=default)
    with pytest.raises(CannotServe, match="default.pt is of no use without the axis file"):
        from_capping_config(save(config, "config.pt"), model=MODEL, default_vector=default)


def test_provenance_names_the_bytes_and_whether_the_sign_was_seen(save, raw, config):
    path = save(config, "config.pt")
    alone = from_capping_config(path, model=MODEL, provenance={"by": "hand"}).provenance
    assert alone["capping_config"].startswith("config.pt sha256:") and alone["by"] == "hand"
    assert alone["sign"].startswith("by the format")
    both = from_capping_config(path, model=MODEL, axis_path=save(raw, "axis.pt")).provenance
    assert both["sign"].startswith("cosine") and both["axis"].startswith("axis.pt sha256:")


def test_a_converted_axis_survives_its_file(save, raw, config, tmp_path):
    axis = from_assistant_axis(save(raw, "a.pt"), model=MODEL, capping_config=save(config, "c.pt"))
    axis.save(tmp_path / "axis.safetensors")
    assert Axis.load(tmp_path / "axis.safetensors").digest == axis.digest


# --- signs ---------------------------------------------------------------------------------------


def test_an_axis_that_points_the_other_way_is_refused_at_its_layer(save, raw, config):
    raw[4] = -raw[4]
    with pytest.raises(CannotServe, match=r"at layer 4 .* points the other way: cosine -0.\d+ .* wanted above 0.5"):
        from_capping_config(save(config, "config.pt"), model=MODEL, axis_path=save(raw, "axis.pt"))


def test_an_axis_of_another_direction_is_refused_at_its_layer(save, raw, config):
    raw[2] = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(9))
    with pytest.raises(CannotServe, match="at layer 2 .* is another direction: cosine"):
        from_capping_config(save(config, "config.pt"), model=MODEL, axis_path=save(raw, "axis.pt"))


@pytest.mark.parametrize("cut", [lambda raw: raw[:5], lambda raw: raw[:, :32]], ids=["layers", "width"])
def test_files_of_two_models_are_refused_with_both_shapes(save, raw, config, cut):
    axis = save(cut(raw).clone(), "axis.pt")
    with pytest.raises(CannotServe, match="layers up to 5 and width 33, the axis file axis.pt has .* of two models"):
        from_capping_config(save(config, "config.pt"), model=MODEL, axis_path=axis)


# --- hostile files -------------------------------------------------------------------------------


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("convert", [from_assistant_axis, from_capping_config])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_with_code_in_it_is_refused_before_it_runs(tmp_path, raw, convert, legacy):
    ran, path = tmp_path / "ran", tmp_path / "axis.pt"
    torch.save({"axis": raw, "metadata": _Bomb(ran)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CannotServe, match=r"axis.pt cannot be converted: it is not a .pt file of plain tensors"):
        convert(path, model=MODEL)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the file was harmless, so the test proved nothing"


def test_a_bare_pickle_with_code_in_it_is_refused_before_it_runs(tmp_path):
    (tmp_path / "axis.pt").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(CannotServe, match="runs no code from files"):
        from_assistant_axis(tmp_path / "axis.pt", model=MODEL)
    assert not (tmp_path / "ran").exists()


def test_the_environment_cannot_switch_the_refusal_off(tmp_path, raw, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"axis": raw, "metadata": _Bomb(tmp_path / "ran")}, tmp_path / "axis.pt")
    with pytest.raises(CannotServe, match="runs no code from files"):
        from_assistant_axis(tmp_path / "axis.pt", model=MODEL)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of torch", b"\x80\x02.", b"\x80\x02K\x01."])
def test_bytes_that_are_no_pt_file_are_refused(tmp_path, content):
    (tmp_path / "axis.pt").write_bytes(content)
    with pytest.raises(CannotServe, match="axis.pt cannot be converted"):
        from_assistant_axis(tmp_path / "axis.pt", model=MODEL)


def test_a_truncated_file_and_a_zip_without_tensors_are_refused(save, raw, tmp_path):
    path = save(raw)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CannotServe, match="file.pt cannot be converted"):
        from_assistant_axis(path, model=MODEL)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(CannotServe, match="zip.pt cannot be converted"):
        from_assistant_axis(tmp_path / "zip.pt", model=MODEL)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CannotServe, match=r"none.pt cannot be converted: No such file"):
        from_assistant_axis(tmp_path / "none.pt", model=MODEL)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda raw: {"vector": raw}, r"keys \['vector'\], and 'axis' is not among them"),
        (lambda raw: {"axis": [1.0]}, "the axis must be a tensor, got list"),
        (lambda raw: "axis", "the axis must be a tensor, got str"),
        (lambda raw: raw[0].clone(), r"the axis must have 2 dimensions, got shape \(33,\)"),
        (lambda raw: raw[:0].clone(), r"the axis must have 2 dimensions, got shape \(0, 33\)"),
        (lambda raw: raw.to(torch.int32), "plain bf16, fp16 or fp32 tensor, got torch.int32"),
        (lambda raw: raw.to(torch.complex64), "plain bf16, fp16 or fp32 tensor, got torch.complex64"),
        (lambda raw: raw.to_sparse(), "tensor"),
        (lambda raw: torch.where(torch.arange(6)[:, None] == 2, torch.nan, raw), "layer 2 holds nan"),
        (lambda raw: torch.where(torch.arange(6)[:, None] == 2, -torch.inf, raw), "layer 2 holds -inf"),
        (lambda raw: torch.where(torch.arange(6)[:, None] == 2, 0, raw), "layer 2 is all zeros"),
    ],
)
def test_an_axis_file_that_holds_no_axis_is_refused_with_what_it_holds(save, raw, content, said):
    with pytest.raises(CannotServe, match=said) as refusal:
        from_assistant_axis(save(content(raw)), model=MODEL)
    assert "file.pt" in str(refusal.value)


def _vector(config: dict[str, Any], **change: Any) -> None:
    config["vectors"][_name(3)] |= change


def _intervention(config: dict[str, Any], **change: Any) -> None:
    config["experiments"][13]["interventions"][0] |= change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda c: c.pop("experiments"), r"keys 'vectors' and 'experiments', it holds \['vectors'\]"),
        (lambda c: c.update(vectors={}), "'vectors' must be a dict with an entry"),
        (lambda c: c.update(vectors=[1]), "'vectors' must be a dict with an entry, got list"),
        (lambda c: c.update(experiments={}), "'experiments' must be a list"),
        (lambda c: c["vectors"].update(x=1), "vector 'x' must have the keys 'vector' and 'layer', it holds int"),
        (lambda c: _vector(c, layer=-1), "pos3_default1' must name a 0-based layer, got -1"),
        (lambda c: _vector(c, layer="3"), "must name a 0-based layer, got '3'"),
        (lambda c: _vector(c, layer=True), "must name a 0-based layer, got True"),
        (lambda c: _vector(c, vector=[1.0]), "layer_3.* must be a tensor, got list"),
        (lambda c: _vector(c, vector=torch.ones(1, 33)), r"must have 1 dimensions, got shape \(1, 33\)"),
        (lambda c: _vector(c, vector=torch.ones(32)), "layer_3.* has width 32, others have 33"),
        (lambda c: _vector(c, vector=torch.zeros(33)), "layer_3.* is all zeros"),
        (lambda c: _vector(c, vector=torch.full((33,), torch.nan)), "layer_3.* holds nan"),
        (lambda c: _vector(c, layer=4), r"layer 4 has two directions, 'layer_3/.*' and 'layer_4/.*' \(cosine"),
        (lambda c: c["experiments"].append({"interventions": []}), "a dict with a text 'id', got .'interventions'"),
        (lambda c: c["experiments"].append(c["experiments"][0]), "experiment 'layers_0:2-p0.01' is there twice"),
        (lambda c: c["experiments"].append({"id": "x"}), "must have a list 'interventions', got NoneType"),
        (lambda c: c["experiments"].append({"id": "x", "interventions": [3]}), "holds int where a dict was expected"),
        (lambda c: _intervention(c, vector="who"), "'layers_3:5-p0.25' uses the vector 'who', which is not there"),
        (lambda c: _intervention(c, vector=[1]), r"'layers_3:5-p0.25' uses the vector \[1\], which is not there"),
        (lambda c: _intervention(c, cap=float("nan")), "'layers_3:5-p0.25' must cap at a finite number, got nan"),
        (lambda c: _intervention(c, cap=None), "must cap at a finite number, got None"),
        (lambda c: _intervention(c, cap="-7"), "must cap at a finite number, got '-7'"),
        (lambda c: _intervention(c, coeff=1.0), "'layers_3:5-p0.25' is additive .it has 'coeff'.: .* with a shift"),
        (lambda c: _intervention(c, coef=1.0), "'layers_3:5-p0.25' is additive .it has 'coef'."),
        (lambda c: _intervention(c, vector=_name(2)), r"caps the layers \[2, 4\], .* half-open window means 3 to 4"),
        (lambda c: c["experiments"][13].update(id="layers_3:4-p0.25"), r"caps the layers \[3, 4\], .* means 3 to 3"),
        (
            lambda c: c["experiments"][13]["interventions"].append({"vector": _name(3), "cap": -6.0}),
            "'layers_3:5-p0.25' caps layer 3 at -7.0 and at -6.0: a profile has one floor per layer",
        ),
        (lambda c: c["experiments"][0]["interventions"][0].update(cap=9.0), "must not fall with the share"),
    ],
)
def test_a_hostile_capping_config_is_refused_by_name_and_value(save, config, spoil, said):
    spoil(config)
    with pytest.raises(CannotServe, match=said) as refusal:
        from_capping_config(save(config), model=MODEL)
    assert "file.pt cannot be converted" in str(refusal.value)


def test_a_recommendation_that_is_not_in_the_file_is_refused(save, raw, config):
    with pytest.raises(CannotServe, match=r"cap 'layers_9:11-p0.25' is not in the file; it has layers_0:2-p0.01, "):
        from_capping_config(save(config), model=MODEL, recommended="layers_9:11-p0.25")
    with pytest.raises(CannotServe, match="cap 'x' cannot be recommended: give the capping_config.pt it is in"):
        from_assistant_axis(save(raw), model=MODEL, recommended="x")
