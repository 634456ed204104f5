"""`mooring serve`: make the plan, then run stock vLLM with it in this process."""

import argparse
import os
import sys
from collections.abc import Sequence

from mooring_axes.errors import CannotServe
from mooring_hooks.progress import say
from mooring_server.history import location
from mooring_server.plan import Plan, check_port, make_plan, parser


def serve(arguments: Sequence[str]) -> None:
    """Serve until stopped; raise CannotServe before anything starts if something is wrong."""
    options, rest = split(arguments)
    plan = make_plan(options, rest, os.environ)
    if options.print_command:
        print(plan.command())
        return
    check_port(rest)
    location.check({**os.environ, **plan.environment})
    _describe(options.model, plan)
    os.environ.update(plan.environment)
    _run_vllm(plan)


def split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(Mooring's options, vLLM's). The model comes first: the value of an unknown option could pass for it."""
    first = arguments[0] if arguments else ""
    if first.startswith("-") and first not in ("-h", "--help"):
        raise CannotServe(f"the model comes first, and {first!r} is an option: mooring serve MODEL {first} ...")
    return parser().parse_known_args(list(arguments))


def _describe(model: str, plan: Plan) -> None:
    settings = plan.settings
    say(f"serving {model}; requests run under profile {settings.default!r}, and may choose {settings.selectable()}")
    for note in plan.notes:
        say(note)


def _run_vllm(plan: Plan) -> None:
    say("importing vLLM (5 to 10 s) ...")
    # The parts of `vllm serve`: the `vllm` command itself asks for a distribution of that name, and the CPU
    # build is another one.
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    arguments = make_arg_parser(FlexibleArgumentParser(prog="mooring serve")).parse_args(list(plan.argv))
    configure_logging_from_args(arguments)
    command = ServeSubcommand()
    command.validate(arguments)
    _check_configuration(arguments)
    say("starting the engine: load the model, compile it with the cap, test the cap (10 to 60 s) ...")
    sys.stdout.flush()
    try:
        command.cmd(arguments)
    except Exception:
        say("vLLM stopped. Where the reason is Mooring's, a line above begins with 'mooring: cannot serve:'")
        raise


def _check_configuration(arguments: object) -> None:
    """Refuse here, in one line, what the workers would refuse with a traceback."""
    import vllm

    from mooring_hooks.engine import refuse_unsupported

    arguments.model = getattr(arguments, "model_tag", None) or arguments.model  # type: ignore[attr-defined]
    engine = vllm.AsyncEngineArgs.from_cli_args(arguments)
    refuse_unsupported(engine.create_engine_config())
