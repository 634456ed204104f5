"""Profiles: what each form of a floor comes to, and every file that says something else than it means."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from mooring_axes.artifact import Axis, Percentiles, Recommended
from mooring_axes.errors import CannotServe
from mooring_axes.profiles import (
    OFF,
    Profile,
    Remap,
    ResolvedProfile,
    load_profiles,
    off_profile,
    recommended_profile,
    resolve,
)


def _resolved(axis: Axis, **written: object) -> ResolvedProfile:
    return resolve(Profile.model_validate({"name": "calm", "layers": "3:5", **written}), axis)


def _floors(axis: Axis, floor: object, layers: str = "3:5") -> list[float]:
    return [remap.floor for remap in _resolved(axis, floor=floor, layers=layers).remaps.values()]


# --- the forms of a floor ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("floor", "floors"),
    [
        (-1.5, [-1.5, -1.5]),
        (2, [2.0, 2.0]),
        ([-1.5, 3], [-1.5, 3.0]),
        ("p25", [7.0, 8.0]),  # share below 0.75: 4 + layer
        ("p1", [11.0, 12.0]),  # share below 0.99, which float32 does not hold exactly
        ("p50", [5.0, 6.0]),
        ("p75", [4.0, 5.0]),
        ("p37.5", [6.0, 7.0]),  # half way between p25 and p50
        ("default_p25", [6.0, 7.0]),
        ("default_p1", [4.0, 5.0]),
        ("default_mean", [7.0, 8.0]),
        ("default_mean+0.5gap", [8.0, 9.0]),  # the gap is 2
        ("default_mean-0.25gap", [6.5, 7.5]),
        ("cap:layers_3:5-p0.25", [7.0, 8.0]),
    ],
)
def test_each_form_of_a_floor_comes_to_its_number(axis, floor, floors):
    assert _floors(axis, floor) == pytest.approx(floors)


def test_p25_read_backwards_would_be_weaker():
    """Of answers spread evenly over 0..100 a quarter lie above the floor p25, so it lifts three quarters."""
    answers = np.linspace(0, 100, 10_001)
    shares = np.array([0.01, 0.25, 0.5, 0.75, 0.99], np.float32)
    quantiles = np.quantile(answers, shares)[None, :].astype(np.float32)
    axis = Axis(
        directions=np.eye(1, 4, dtype=np.float32),
        norms=np.ones(1, np.float32),
        model="example/even",
        monitored_layer=0,
        percentiles={"all": Percentiles(shares, quantiles), "default": Percentiles(shares, quantiles)},
    )
    (published,), (backwards,) = _floors(axis, "p25", "0"), _floors(axis, "default_p25", "0")
    assert (published, backwards) == (pytest.approx(75), pytest.approx(25))
    assert (answers < published).mean() == pytest.approx(0.75, abs=1e-3)
    assert np.maximum(published - answers, 0).mean() > 8 * np.maximum(backwards - answers, 0).mean()


def test_a_smaller_p_is_a_higher_floor_and_a_smaller_default_p_a_lower_one(axis):
    assert _floors(axis, "p10") > _floors(axis, "p25") > _floors(axis, "p50")
    assert _floors(axis, "default_p10") < _floors(axis, "default_p25") < _floors(axis, "default_p50")


def test_a_ceiling_takes_the_same_forms(axis):
    remap = _resolved(axis, floor="p75", ceiling="default_mean+1gap").remaps[3]
    assert remap == Remap(floor=4.0, ceiling=9.0)


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        ("p0.5", "p0.5 lies outside the axis' table, which spans p1 to p75"),
        ("p80", "p80 lies outside the axis' table, which spans p1 to p75"),
        ("default_p60", "default_p60 lies outside the axis' table, which spans default_p1 to default_p50"),
        ("cap:strong", "the axis has no cap 'strong', it holds .* caps layers_3:5-p0.25"),
        ([1.0], "lists 1 values of floor for 2 layers"),
        ([], "lists 0 values of floor for 2 layers"),
    ],
)
def test_what_the_axis_cannot_say_is_refused_with_what_it_can(axis, floor, said):
    with pytest.raises(CannotServe, match=said) as refusal:
        _resolved(axis, floor=floor)
    assert "'calm'" in str(refusal.value)


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        ("p25", "the axis holds no percentiles of 'all' answers, it holds directions only: use that or a number"),
        ("default_p25", "no percentiles of 'default' answers"),
        ("default_mean", "no default_mean"),
        ("cap:any", "no cap 'any'"),
    ],
)
def test_an_axis_of_directions_alone_says_what_is_missing(bare, floor, said):
    with pytest.raises(CannotServe, match=said):
        _resolved(bare, floor=floor)


def test_a_gap_needs_a_role_mean_and_a_positive_width_at_its_layer(axis):
    with pytest.raises(CannotServe, match="no role_mean, so there is no gap"):
        _resolved(dataclasses.replace(axis, role_mean=None), floor="default_mean+0.5gap")
    role = axis.role_mean.copy()
    role[4] = 9.0
    with pytest.raises(CannotServe, match="at layer 4 the gap default_mean - role_mean is -1: it must be above 0"):
        _resolved(dataclasses.replace(axis, role_mean=role), floor="default_mean+0.5gap")


def test_a_cap_is_used_only_at_the_layers_it_was_measured_for(axis):
    with pytest.raises(CannotServe, match=r"'layers_3:5-p0.25' has no floor for layer 2, only for \[3, 4\]"):
        _resolved(axis, floor="cap:layers_3:5-p0.25", layers="2:5")


@pytest.mark.parametrize(
    "floor",
    ["P25", "p", "p25%", "p-1", "p0", "p100", "p1e1", "default_p0", "default_p100", "default_mean+gap", "-1.5", ""]
    + ["default_mean + 0.5gap", "role_mean", "cap:", "p٢٥", True, math.nan, math.inf, 1e39, 10**400, [1, "p25"], {}],
)
def test_a_floor_that_is_not_readable_is_refused_when_it_is_written(floor):
    with pytest.raises(ValueError, match="not readable|not a percentile|must be a number|must be finite"):
        Profile.model_validate({"name": "calm", "layers": "3:5", "floor": floor})


# --- the profile ---------------------------------------------------------------------------------


def test_a_profile_resolves_to_one_remap_per_layer_in_rising_order(axis):
    profile = _resolved(axis, layers="1,3:5", floor=[1, 2, 3], shift=0.5, scale=[1, 0, 0.5], positions="response")
    assert list(profile.remaps.items()) == [
        (1, Remap(floor=1.0, shift=0.5, scale=1.0)),
        (3, Remap(floor=2.0, shift=0.5, scale=0.0)),
        (4, Remap(floor=3.0, shift=0.5, scale=0.5)),
    ]
    assert (profile.name, profile.positions, profile.selectable, profile.axis) == ("calm", "response", True, axis)


@pytest.mark.parametrize("layers", ["3:5", [3, 4], (3, 4), "3,4"])
def test_layers_are_a_half_open_window_or_a_list(axis, layers):
    assert list(_resolved(axis, layers=layers, floor=1.0).remaps) == [3, 4]


def test_the_last_layer_may_be_capped_and_the_one_after_it_is_refused(axis):
    assert list(_resolved(axis, layers="5:6", floor=1.0).remaps) == [5]
    with pytest.raises(CannotServe, match="'calm' names layer 6, but the axis of example/small has layers 0 to 5"):
        _resolved(axis, layers="5:7", floor=1.0)


@pytest.mark.parametrize("layers", [[], [4, 3], [3, 3], [-1], [True], [3.0], "5:3", None, {}, -1])
def test_layers_that_make_no_sense_are_refused(layers):
    with pytest.raises(ValueError, match="layers"):
        Profile.model_validate({"name": "calm", "layers": layers, "floor": 1.0})


@pytest.mark.parametrize("nothing", [{}, {"shift": 0}, {"scale": 1.0}, {"shift": [0, 0], "scale": [1, 1]}])
def test_a_profile_that_does_nothing_points_to_off(nothing):
    with pytest.raises(ValueError, match="to serve uncapped, use the profile 'off'"):
        Profile.model_validate({"name": "calm", "layers": "3:5", **nothing})


@pytest.mark.parametrize("something", [{"floor": 0}, {"ceiling": 0}, {"shift": -1}, {"scale": 0}, {"scale": [1, 0]}])
def test_floor_ceiling_shift_and_scale_each_suffice(axis, something):
    assert _resolved(axis, **something).digest


def test_a_floor_above_the_ceiling_is_refused_at_its_layer(axis):
    assert _resolved(axis, floor=1.0, ceiling=1.0).remaps[3] == Remap(floor=1.0, ceiling=1.0)
    with pytest.raises(CannotServe, match="'calm' has floor 8 above ceiling 7.5 at layer 4"):
        _resolved(axis, floor="default_mean", ceiling=7.5)


@pytest.mark.parametrize("name", ["", "a:b", "-a", ".a", "a b", "a/b", "é", "a\n", "a" * 65, 3, None])
def test_a_name_that_could_not_be_asked_for_is_refused(name):
    with pytest.raises(ValueError, match="1 to 64 of A-Z"):
        Profile.model_validate({"name": name, "layers": "3:5", "floor": 1.0})


@pytest.mark.parametrize("name", ["off", "OFF", "Off"])
def test_the_name_off_is_taken(name):
    with pytest.raises(ValueError, match="'off' is built in: .* off_selectable"):
        Profile.model_validate({"name": name, "layers": "3:5", "floor": 1.0})


def test_off_touches_nothing_and_has_no_digest(axis):
    off = off_profile(axis, selectable=False)
    assert (off.name, dict(off.remaps), off.digest, off.selectable, off.axis) == (OFF, {}, "", False, axis)


# --- the digest: what may share a prefix cache ---------------------------------------------------


def test_name_and_permission_do_not_change_the_digest(axis):
    one = _resolved(axis, floor="p25")
    assert _resolved(axis, floor=[7.0, 8.0], name="other", selectable=False, description="x").digest == one.digest


@pytest.mark.parametrize(
    "change",
    [
        {"layers": "2:4"},
        {"floor": 1.5},
        {"ceiling": 2.0},
        {"shift": 0.5},
        {"scale": 0.5},
        {"positions": "response"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_stream_changes_the_digest(axis, change):
    assert _resolved(axis, **{"floor": 1.0, **change}).digest != _resolved(axis, floor=1.0).digest


def test_only_the_directions_of_the_profile_s_layers_count(axis):
    turned = axis.directions.copy()
    turned[0] = -turned[0]
    other = dataclasses.replace(axis, directions=turned, caps={}, recommended=None)
    assert _resolved(other, floor=1.0).digest == _resolved(axis, floor=1.0).digest
    assert _resolved(other, floor=1.0, layers="0").digest != _resolved(axis, floor=1.0, layers="0").digest


def test_the_profile_digest_stays_what_it_was():
    axis = Axis(np.eye(2, 4, dtype=np.float32), np.ones(2, np.float32), "example/golden", 0)
    assert _resolved(axis, layers="1", floor=-1.5, scale=0.5).digest[:12] == "e4dcee65f609"


# --- the recommended cap -------------------------------------------------------------------------


def test_the_recommended_cap_becomes_the_profile_default(axis):
    profile = recommended_profile(axis)
    assert profile is not None and profile.name == "default"
    assert resolve(profile, axis).remaps == {3: Remap(floor=7.0), 4: Remap(floor=8.0)}


def test_an_axis_that_recommends_nothing_has_no_default_profile(bare):
    assert recommended_profile(bare) is None


def test_a_recommendation_that_is_no_floor_is_refused(axis):
    with pytest.raises(CannotServe, match="recommends what is no cap: floor: 'strong' is not readable"):
        recommended_profile(dataclasses.replace(axis, recommended=Recommended("3:5", "strong")))


# --- the file ------------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path):
    def _load(text: str):
        (tmp_path / "profiles.yaml").write_text(text, encoding="utf-8")
        return load_profiles(tmp_path / "profiles.yaml")

    return _load


def test_a_file_with_every_key_is_read(load, axis):
    file = load(
        """
        default: gentle
        off_selectable: false
        profiles:
          - name: gentle
            description: the paper's cap
            layers: 46:54
            floor: p25
          - {name: steady, axis: qwen3-32b/assistant, layers: [3, 4], floor: [-1.5, 2e0], ceiling: 1e3, shift: .5,
             scale: 1, positions: response, selectable: false}
        """
    )
    gentle, steady = file.profiles
    assert (file.default, file.off_selectable) == ("gentle", False)
    assert (gentle.layers, gentle.floor) == (tuple(range(46, 54)), "p25")
    assert (gentle.positions, gentle.selectable) == ("all", True)
    assert (steady.axis, steady.layers, steady.floor) == ("qwen3-32b/assistant", (3, 4), (-1.5, 2.0))
    assert (steady.ceiling, steady.shift, steady.scale) == (1000.0, 0.5, 1.0)
    assert (steady.positions, steady.selectable) == ("response", False)


def test_an_unquoted_window_is_a_window_and_no_sexagesimal_number(load):
    assert load("profiles: [{name: a, layers: 46:54, floor: 1}]").profiles[0].layers == tuple(range(46, 54))


def test_an_unquoted_off_is_the_profile_off_and_not_false(load):
    assert load("default: off").default == "off"


def test_a_file_without_a_default_leaves_it_to_the_axis(load):
    assert load("profiles: [{name: a, layers: 3:5, floor: 1}]").default is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold the keys default, profiles, off_selectable, got NoneType"),
        ("- a", "must hold the keys default, profiles, off_selectable, got list"),
        ("profiles: {", "is not YAML that Mooring reads"),
        ("default: a\ndefault: b", "the key 'default' is twice"),
        ("profiles: [{name: a, layers: 1, floor: 1, floor: 9}]", "the key 'floor' is twice"),
        ("profiles: [{1: a}]", "the key 1 is not text"),
        ("x: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("defualt: off", "defualt: is not a known key; known are default, profiles, off_selectable"),
        ("profiles: 3", "profiles: .* got 3"),
        ("profiles: [a]", "profiles.0: .* got 'a'"),
        ("profiles: [{layers: 1, floor: 1}]", "profiles.0.name: is missing"),
        ("profiles: [{name: a, floor: 1}]", "profiles.0.layers .profile 'a'.: is missing"),
        ("profiles: [{name: a, layers: 1, flor: 1, floor: 1}]", "profiles.0.flor .profile 'a'.: is not a known key"),
        ("profiles: [{name: a, layers: 1, floor: .inf}]", "profiles.0.floor .profile 'a'.: must be finite"),
        ("profiles: [{name: a, layers: 1, floor: true}]", "must be a number, got True"),
        ("profiles: [{name: a, layers: 1, floor: '1'}]", "'1' is not readable"),
        ("profiles: [{name: a, layers: 010, floor: 1}]", "got 10.0"),
        ("profiles: [{name: a, layers: 1, floor: 1, positions: decode}]", "'all' or 'response', got 'decode'"),
        ("profiles: [{name: a, layers: 1, floor: 1, selectable: maybe}]", "selectable .profile 'a'.: .* got 'maybe'"),
        ("profiles: [{name: a, layers: 1}]", "profiles.0 .profile 'a'.: needs a floor"),
        ("profiles: [{name: off, layers: 1, floor: 1}]", "profiles.0.name .profile 'off'.: 'off' is built in"),
        (
            "profiles: [{name: a, layers: 1, floor: 1}, {name: a, layers: 2, floor: 1}]",
            r"profiles \['a'\] are there twice",
        ),
        ("default: b\nprofiles: [{name: a, layers: 1, floor: 1}]", r"default is 'b', .* \['a', 'off'\]"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_file_and_key(load, tmp_path, text, said):
    with pytest.raises(CannotServe, match=said) as refusal:
        load(text)
    assert str(tmp_path / "profiles.yaml") in str(refusal.value)


def test_a_tag_that_would_run_code_runs_nothing(load, tmp_path):
    with pytest.raises(CannotServe, match="could not determine a constructor"):
        load(f"profiles: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(CannotServe, match=r"none.yaml: No such file"):
        load_profiles(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CannotServe, match=r"binary.yaml is not YAML"):
        load_profiles(tmp_path / "binary.yaml")
