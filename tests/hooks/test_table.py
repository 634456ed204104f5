"""Profiles -> slots: the table file and the settings that name it."""

import math
from pathlib import Path

import numpy as np
import pytest

from mooring_axes.errors import CannotServe
from mooring_axes.profiles import Profile, ResolvedProfile, off_profile, resolve
from mooring_hooks.table import Settings, SlotTable, publish, table_path
from tiny import random_axis

AXIS, OTHER = random_axis(), random_axis(seed=1)


def profiles() -> list[ResolvedProfile]:
    return [
        off_profile(AXIS),
        resolve(Profile(name="capped", layers="2:4", floor=0.5), AXIS),
        resolve(Profile(name="else", layers="3", ceiling=1.0, scale=0.5, shift=2.0), OTHER),
    ]


def test_the_sites_are_every_capped_layer_and_the_monitored_one() -> None:
    assert SlotTable.build(profiles()).layers == (1, 2, 3)


def test_every_slot_keeps_its_own_remap_and_empty_slots_touch_nothing() -> None:
    table = SlotTable.build(profiles(), slots=5)
    off = [1.0, 0.0, -math.inf, math.inf]
    assert table.remaps[2].tolist() == [off, [1.0, 0.0, 0.5, math.inf], [0.5, 2.0, -math.inf, 1.0], off, off]
    assert table.remaps[0].tolist() == [off] * 5


def test_equal_axes_are_stored_once() -> None:
    assert SlotTable.build(profiles()[:2]).axes.shape == (3, 1, AXIS.hidden_size)
    table = SlotTable.build(profiles())
    assert table.axis_of[:3].tolist() == [0, 0, 1]
    assert np.array_equal(table.axes[:, 1], OTHER.directions[[1, 2, 3]])


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = SlotTable.build(profiles())
    found = SlotTable.fetch(tmp_path, table.store(tmp_path))
    assert (found.layers, found.model_layers, found.monitored_layer) == (table.layers, 6, 1)
    for name in ("axes", "axis_of", "remaps"):
        assert np.array_equal(getattr(found, name), getattr(table, name))


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    digest = SlotTable.build(profiles()).store(tmp_path)
    path = table_path(tmp_path, digest)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CannotServe, match="was changed"):
        SlotTable.fetch(tmp_path, digest)


def test_a_node_without_the_table_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="this node has no capping table.*\n.*copy the file"):
        SlotTable.fetch(tmp_path, "0" * 64)


def test_the_digest_is_of_contents_and_changes_with_every_number(tmp_path: Path) -> None:
    assert len({SlotTable.build(profiles()).store(tmp_path) for _ in range(50)}) == 1
    changed = [off_profile(AXIS), resolve(Profile(name="capped", layers="2:4", floor=0.5000001), AXIS)]
    assert SlotTable.build(profiles()[:2]).store(tmp_path) != SlotTable.build(changed).store(tmp_path)


def test_settings_survive_vllms_configuration(tmp_path: Path) -> None:
    settings = publish(profiles(), "capped", folder=tmp_path, kernel="triton")
    assert Settings.from_config({"mooring": settings.to_json()}) == settings
    assert Settings.from_config({}) is None and Settings.from_config(None) is None


def test_settings_that_somebody_else_wrote_are_refused() -> None:
    with pytest.raises(CannotServe, match="did not write"):
        Settings.from_config({"mooring": {"table": "x"}})


def test_more_profiles_than_slots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="3 profiles with 'off'.*2 slots\n.*--slots 3"):
        publish(profiles(), "capped", slots=2, folder=tmp_path)


def test_a_default_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="'nope', but there are only off, capped, else"):
        publish(profiles(), "nope", folder=tmp_path)


def test_two_profiles_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match=r"\['capped'\] are there twice"):
        publish([*profiles(), profiles()[1]], "capped", folder=tmp_path)


def test_a_profile_on_an_axis_of_another_shape_is_refused(tmp_path: Path) -> None:
    narrow = resolve(Profile(name="narrow", layers="2", floor=0.0), random_axis(width=64))
    with pytest.raises(CannotServe, match="'narrow' has an axis of 6 layers and width 64"):
        publish([off_profile(AXIS), narrow], "narrow", folder=tmp_path)
