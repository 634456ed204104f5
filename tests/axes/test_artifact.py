"""The axis file: what is read is what was written, and one hostile file per rule."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mooring_axes.artifact import Axis, Percentiles, Recommended, parse_layers
from mooring_axes.errors import CannotServe

# If it changes, the compile cache and the prefix cache of every server change with it: then raise the
# version of the format instead of changing this line.
GOLDEN = "11158d6d8dfd1fe321090ae46d9a3a728aa614c6a5b3f3763f4c8aa7d9336da7"


def test_what_is_loaded_is_what_was_saved(axis, tmp_path):
    axis.save(tmp_path / "axis.safetensors")
    loaded = Axis.load(tmp_path / "axis.safetensors")
    for name in ("directions", "norms", "default_mean", "role_mean"):
        assert getattr(loaded, name).tobytes() == getattr(axis, name).tobytes()
    for population in ("all", "default"):
        assert (loaded.percentiles[population].shares == axis.percentiles[population].shares).all()
        assert (loaded.percentiles[population].values == axis.percentiles[population].values).all()
    for name in ("model", "monitored_layer", "caps", "recommended", "provenance", "digest"):
        assert getattr(loaded, name) == getattr(axis, name)


def test_an_axis_of_directions_alone_is_enough(bare, tmp_path):
    bare.save(tmp_path / "axis.safetensors")
    loaded = Axis.load(tmp_path / "axis.safetensors")
    assert (loaded.default_mean, loaded.role_mean, loaded.recommended) == (None, None, None)
    assert not loaded.percentiles and not loaded.caps
    assert loaded.digest == bare.digest


def test_the_digest_stays_what_it_was():
    """Of numbers that float32 holds exactly, so that no BLAS has a say in it."""
    values = np.array([[-1.5, 2.0], [-1.0, 2.5], [0.0, 0.25]], np.float32)
    axis = Axis(
        directions=np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0.5, 0.5, -0.5, 0.5]], np.float32),
        norms=np.ones(3, np.float32),
        model="example/golden",
        monitored_layer=1,
        default_mean=values[:, 1].copy(),
        role_mean=values[:, 0].copy(),
        percentiles={"all": Percentiles(np.array([0.25, 0.75], np.float32), values)},
        caps={"layers_1:3-p0.25": {1: 2.5, 2: 0.25}},
        recommended=Recommended("1:3", "cap:layers_1:3-p0.25"),
        provenance={"any": "thing"},
    )
    assert axis.digest == GOLDEN


def test_the_digest_does_not_depend_on_the_order_of_the_caps(axis):
    caps = {"a": {3: 1.0, 4: 2.0}, "b": {0: 0.5}}
    turned = {"b": {0: 0.5}, "a": {4: 2.0, 3: 1.0}}
    one, other = (dataclasses.replace(axis, caps=c, recommended=None) for c in (caps, turned))
    assert one.digest == other.digest


def test_the_digest_ignores_where_the_axis_came_from(axis):
    assert dataclasses.replace(axis, provenance={"other": "place"}).digest == axis.digest


@pytest.mark.parametrize(
    "change",
    [
        {"monitored_layer": 1},
        {"default_mean": None},
        {"role_mean": np.zeros(6, np.float32)},
        {"percentiles": {}},
        {"caps": {"layers_3:5-p0.25": {3: 7.0, 4: 8.5}}},
        {"recommended": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_follows_everything_that_caps_or_measures(axis, change):
    assert dataclasses.replace(axis, **change).digest != axis.digest


def test_the_digest_follows_a_single_bit_of_a_direction(fields, axis):
    directions = fields["directions"].copy()
    directions.view(np.uint32)[5, 32] ^= 1
    assert dataclasses.replace(axis, directions=directions).digest != axis.digest


def test_an_axis_cannot_be_changed(axis, fields):
    with pytest.raises(ValueError, match="read-only"):
        axis.directions[0, 0] = 1.0
    with pytest.raises(TypeError):
        axis.caps["new"] = {0: 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        axis.model = "other"
    before = axis.digest
    fields["directions"][:] = 0
    fields["caps"]["layers_3:5-p0.25"][3] = 100.0
    assert axis.digest == before


def test_saving_replaces_the_file_whole_and_leaves_nothing_beside_it(axis, bare, tmp_path):
    path = tmp_path / "axis.safetensors"
    bare.save(path)
    axis.save(path)
    assert Axis.load(path).digest == axis.digest
    assert os.listdir(tmp_path) == ["axis.safetensors"]


def test_a_save_that_fails_keeps_the_file_that_was_there(axis, bare, tmp_path, monkeypatch):
    path = tmp_path / "axis.safetensors"
    bare.save(path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotServe, match="axis.safetensors: No space left on device"):
        axis.save(path)
    assert Axis.load(path).digest == bare.digest
    assert os.listdir(tmp_path) == ["axis.safetensors"]


def test_saving_into_a_folder_that_is_not_there_says_so(axis, tmp_path):
    with pytest.raises(CannotServe, match="cannot write the axis .* No such file or directory"):
        axis.save(tmp_path / "nowhere" / "axis.safetensors")


def test_reading_an_axis_does_not_import_torch():
    code = "import sys; from mooring_axes import artifact, profiles, registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# --- the model it is used on ---------------------------------------------------------------------


def test_the_model_it_was_extracted_from_fits(axis):
    assert axis.check_model("example/small", 33, 6) is None


def test_another_model_of_the_same_shape_is_a_warning_that_names_both(axis):
    warning = axis.check_model("example/tuned", 33, 6)
    assert warning is not None and "example/small" in warning and "example/tuned" in warning


@pytest.mark.parametrize(
    ("hidden", "layers", "said"),
    [(64, 6, "width 33, but example/big has hidden size 64"), (33, 7, "6 layers, but example/big has 7")],
)
def test_a_model_of_another_shape_is_refused_with_both_shapes_and_the_origin(axis, hidden, layers, said):
    with pytest.raises(CannotServe, match=said) as refusal:
        axis.check_model("example/big", hidden, layers)
    assert "extracted from example/small" in str(refusal.value)
    assert "mooring axes list" in str(refusal.value)


# --- windows of layers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layers"),
    [("46:54", range(46, 54)), ("40", [40]), ("40,42:46", [40, 42, 43, 44, 45]), (" 0 , 2 : 4 ", [0, 2, 3])],
)
def test_windows_are_half_open(text, layers):
    assert parse_layers(text, 64) == tuple(layers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("46:65", "reach layer 64, but the axis has layers 0 to 63"),
        ("54:46", "empty window: 54:46"),
        ("46:46", "empty window: 46:46"),
        ("50,46", "must rise"),
        ("46:50,49", "must rise"),
        ("", "not readable"),
        ("46-54", "not readable"),
        ("-1", "not readable"),
        ("46:", "not readable"),
        ("1:2:3", "not readable"),
        ("٤٦", "not readable"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(CannotServe, match=said):
        parse_layers(text, 64)


# --- rules that hold in memory and on disk -------------------------------------------------------


def _with(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


def test_construction_checks_what_loading_checks(fields):
    with pytest.raises(CannotServe, match="layer 3 has length 2"):
        Axis(**{**fields, "directions": _with(fields["directions"], 3, 2 * fields["directions"][3])})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("directions", lambda a: a[0], r"directions must have shape \(n_layers, hidden_size\), got \(33,\)"),
        ("directions", lambda a: a[:0], r"directions must have shape .* got \(0, 33\)"),
        ("directions", lambda a: _with(a, (4, 1), np.nan), "directions must be finite, got nan in layer 4"),
        ("directions", lambda a: _with(a, (4, 1), np.inf), "directions must be finite, got inf in layer 4"),
        ("directions", lambda a: _with(a, 1, 0), "layer 1 is all zeros"),
        ("directions", lambda a: _with(a, 1, a[1] * 1.002), "layer 1 has length 1.002"),
        ("directions", lambda a: a.astype(np.float16), "tensor 'directions' must be F32, got F16"),
        ("directions", lambda a: a.astype(np.float64), "tensor 'directions' must be F32, got F64"),
        ("directions", lambda a: None, "tensors .'directions'. are missing"),
        ("norms", lambda a: None, "tensors .'norms'. are missing"),
        ("norms", lambda a: a[:5], r"norms must have shape \(6,\), got \(5,\)"),
        ("norms", lambda a: _with(a, 2, 0), "norms must be above 0, layer 2 has 0.0"),
        ("norms", lambda a: _with(a, 2, -1), "norms must be above 0, layer 2 has -1.0"),
        ("default_mean", lambda a: a[:, None], r"default_mean must have shape \(6,\), got \(6, 1\)"),
        ("default_mean", lambda a: _with(a, 5, np.inf), "default_mean must be finite, got inf in layer 5"),
        ("default_mean", lambda a: -a, "monitored layer 2 default_mean is -6.0 and role_mean 4.0"),
        ("role_mean", lambda a: _with(a, 0, -np.inf), "role_mean must be finite, got -inf in layer 0"),
        ("percentiles.all.values", lambda a: None, "'percentiles.all.values' is missing: .* come together"),
        ("percentiles.all.shares", lambda a: None, "'percentiles.all.shares' is missing: .* come together"),
        ("percentiles.all.shares", lambda a: a[::-1], "shares must increase, got 0.99.* before 0.75"),
        ("percentiles.all.shares", lambda a: _with(a, 1, 0.25), "shares must increase, got 0.25 before 0.25"),
        ("percentiles.all.shares", lambda a: 100 * a, "shares must lie between 0 and 1, got 25.0 to 99.0"),
        ("percentiles.all.shares", lambda a: _with(a, 0, 0), "shares must lie between 0 and 1, got 0.0 to"),
        ("percentiles.all.shares", lambda a: a[:0], r"shares must have shape \(K,\) with K >= 1, got \(0,\)"),
        ("percentiles.all.values", lambda a: a[:, :3], r"values must have shape \(6, 4\), got \(6, 3\)"),
        ("percentiles.all.values", lambda a: _with(a, (5, 2), 0), "not fall with the share, layer 5 has 7.0 before 0"),
        ("percentiles.all.values", lambda a: _with(a, (5, 2), np.nan), "values must be finite, got nan in layer 5"),
        ("percentiles.everyone.values", lambda a: np.zeros(1, np.float32), "percentiles.everyone.values'. are unknown"),
        ("biases", lambda a: np.zeros(1, np.float32), "tensors .'biases'. are unknown: .'default_mean'"),
    ],
)
def test_a_hostile_tensor_is_refused_by_name_and_value(write, fields, name, change, said):
    tensors = {**fields, "percentiles.all.shares": fields["percentiles"]["all"].shares}
    tensors["percentiles.all.values"] = fields["percentiles"]["all"].values
    path = write(tensors={name: change(tensors.get(name))})
    with pytest.raises(CannotServe, match=said) as refusal:
        Axis.load(path)
    assert str(path) in str(refusal.value) and "make or download it again" in str(refusal.value)


def _caps(value: object) -> dict[str, str]:
    return {"caps": json.dumps(value)}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"format": None}, "'format' must be 'mooring-axis', got None"),
        ({"format": "pt"}, "'format' must be 'mooring-axis', got 'pt'"),
        ({"version": "2"}, "version must be '1', got '2'"),
        ({"version": None}, "version must be '1', got None"),
        ({"model": None}, "metadata .'model'. are missing"),
        ({"model": " "}, "model must name .* got ' '"),
        ({"monitored_layer": None}, "metadata .'monitored_layer'. are missing"),
        ({"monitored_layer": "6"}, "monitored_layer is 6, but the axis has layers 0 to 5"),
        ({"monitored_layer": "-1"}, "monitored_layer must be a layer number in decimal, got '-1'"),
        ({"monitored_layer": "2.0"}, "got '2.0'"),
        ({"monitored_layer": "02"}, "got '02'"),
        ({"monitored_layer": "9" * 5000}, "monitored_layer must be a layer number"),
        ({"sign": "-1"}, "metadata .'sign'. are unknown"),
        ({"caps": "{"}, "metadata 'caps' is not JSON"),
        ({"caps": "[" * 100_000}, "metadata 'caps' is not JSON"),
        ({"caps": "[]"}, "metadata 'caps' must be a JSON object, got list"),
        ({"caps": '{"a": {"1": NaN}}'}, "'caps' must hold finite numbers, got NaN"),
        ({"caps": '{"a": {"1": -Infinity}}'}, "'caps' must hold finite numbers, got -Infinity"),
        ({"caps": '{"a": {"1": 1e400}}'}, "cap 'a' must hold finite float32 floors, got inf at layer 1"),
        ({"caps": '{"a": {"1": 1%s}}' % ("0" * 5000)}, "finite float32 floors, got inf at layer 1"),
        ({"caps": '{"a": {"1": 1e39}}'}, r"finite float32 floors, got 1e\+39 at layer 1"),
        ({"caps": '{"a": {"1": 1, "1": 2}}'}, "'caps' holds one key twice"),
        ({"caps": '{"a": {"1": 1}, "a": {"2": 2}}'}, "'caps' holds one key twice"),
        (_caps({"a": {"6": 1.0}}), "a layer of cap 'a' is 6, but the axis has layers 0 to 5"),
        (_caps({"a": {"x": 1.0}}), "a layer of cap 'a' must be a layer number in decimal, got 'x'"),
        (_caps({"a": {"1": "1.0"}}), "finite float32 floors, got '1.0'"),
        (_caps({"a": {"1": True}}), "finite float32 floors, got True"),
        (_caps({"a": {}}), "cap 'a' holds no layer"),
        (_caps({"a": 1.0}), "cap 'a' must map layers to floors, got 1.0"),
        (_caps({"": {"1": 1.0}}), "a cap needs a name, got ''"),
        ({"recommended": '{"layers": "3:5"}'}, "recommended must hold the texts 'layers' and 'floor', got"),
        ({"recommended": '{"layers": "3:5", "floor": 1.0}'}, "recommended must hold the texts"),
        ({"recommended": '{"layers": "3:9", "floor": "p25"}'}, "reach layer 8, but the axis has layers 0 to 5"),
        ({"recommended": '{"layers": "3:5", "floor": "cap:no"}'}, "recommended cap 'no' is not among .*'gentle'"),
        ({"recommended": '{"layers": "2:5", "floor": "cap:gentle"}'}, r"'gentle' has no floor for layers \[2\]"),
        ({"provenance": '{"seed": 1}'}, "provenance must map text to text, got .'seed', 1"),
    ],
)
def test_hostile_metadata_is_refused_by_key_and_value(write, metadata, said):
    with pytest.raises(CannotServe, match=said):
        Axis.load(write(metadata=metadata))


def test_a_row_within_the_tolerance_keeps_its_bits(write, fields):
    directions = fields["directions"] * np.float32(1.0005)
    assert (Axis.load(write(tensors={"directions": directions})).directions == directions).all()


def test_only_the_two_populations_are_known(fields):
    table = fields["percentiles"]["all"]
    with pytest.raises(CannotServe, match="percentiles of 'roles' are unknown: populations are all, default"):
        Axis(**{**fields, "percentiles": {"roles": table}})


def test_shares_of_another_dtype_are_refused_in_memory(fields):
    table = Percentiles(fields["percentiles"]["all"].shares.astype(np.float64), fields["percentiles"]["all"].values)
    with pytest.raises(CannotServe, match="percentiles.all.shares must be float32, got float64"):
        Axis(**{**fields, "percentiles": {"all": table}})


def test_a_recommended_floor_may_be_a_percentile(fields):
    assert Axis(**{**fields, "recommended": Recommended("3:5", "p25")}).recommended == Recommended("3:5", "p25")


# --- bytes that are no axis ----------------------------------------------------------------------


def _refused(path: Path) -> str:
    with pytest.raises(CannotServe) as refusal:
        Axis.load(path)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


def test_a_path_without_a_file_is_refused(tmp_path):
    assert "there is no such file" in _refused(tmp_path / "missing.safetensors")
    assert "it is not a file" in _refused(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1], ids=lambda keep: f"first {keep}")
def test_a_truncated_file_is_refused(write, keep):
    path = write()
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a readable safetensors file" in _refused(path)


def test_bytes_after_the_tensors_are_refused(write):
    path = write()
    path.write_bytes(path.read_bytes() + b"\0")
    assert "not a readable safetensors file" in _refused(path)


@pytest.mark.parametrize("size", [100_000_001, 2**63, 2**64 - 1])
def test_a_header_that_claims_to_be_huge_is_refused(tmp_path, size):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", size) + b"{}" * 50)
    assert "not a readable safetensors file" in _refused(path)


@pytest.mark.parametrize(
    "content", [b"\x80\x04cos\nsystem\n(S'x'\ntR.", b"PK\x03\x04" + b"\0" * 60, b"GGUF" + b"\0" * 60, b"{}"]
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    assert "not a readable safetensors file" in _refused(path)


def test_a_foreign_safetensors_file_is_refused_for_its_missing_format(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    assert "'format' must be 'mooring-axis', got None" in _refused(path)
