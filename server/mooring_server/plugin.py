"""vLLM's `endpoint_plugins` entry point: the last checks before the port opens.

One of the files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    attach_router   the middleware goes in here: inside authentication, where --middleware would not be; our routes

    init_state      every process agrees on the table; a real request per profile shows the cap, the row map and
                    the isolation of the prefix cache. What is raised here stops the start. Then readings begin:
                    the engine client's `generate`, which all endpoints call, is followed from here on.
    to_sampling_params, to_beam_search_params    of vLLM's request classes: a profile is read from wherever it was
                    asked for and checked before a stream begins; beam search, which drops it, refuses it
"""

import asyncio
import atexit
import functools
import os
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mooring_axes.errors import CannotServe
from mooring_hooks import engine as hooks
from mooring_hooks.inbox import Inbox
from mooring_hooks.measure import Measure
from mooring_hooks.progress import say, telling
from mooring_hooks.table import Settings, SlotTable, tables_folder
from mooring_server import experiment as experiments
from mooring_server import playground
from mooring_server.announce import announce
from mooring_server.assignments import Assignments
from mooring_server.choice import HEADER, asked_for, profile_in_name
from mooring_server.history.routes import router as history_router
from mooring_server.history.start import start as start_history
from mooring_server.history.store import Store
from mooring_server.member import member
from mooring_server.metrics import TurnMetrics, tell_profiles
from mooring_server.middleware import MooringMiddleware
from mooring_server.record import readings_wanted
from mooring_server.routes import Served, router
from mooring_server.selftest import Answer, Ask, Prompt, Scale, Watch, probe_requests
from mooring_server.sessions import Sessions
from mooring_server.thinking import Thinking
from mooring_server.tracing import TurnSpans
from mooring_server.turn import CURRENT, Meter, Turn, measured

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State


class MooringPlugin:
    """See the head of this file; the attributes are vLLM's `EndpointPlugin` protocol."""

    name = "mooring"
    required_tasks = None

    def __init__(self) -> None:
        self._meter: Meter | None = None

    def attach_router(self, app: "FastAPI") -> None:
        app.include_router(router)
        app.include_router(history_router)
        app.include_router(playground.router)
        app.add_middleware(MooringMiddleware, meter=lambda: self._meter)

    async def init_state(self, engine_client: Any, state: "State", args: Namespace) -> None:
        if engine_client is None:
            return  # the render server has no engine, so nothing to cap
        with telling():
            settings = await self._prove(engine_client)
            table = SlotTable.fetch(tables_folder(), settings.table)
            names = args.served_model_name or [args.model]
            sessions = Sessions.of(os.environ, names[0])
        tell_profiles(settings, table, names[0])
        state.mooring = Served(settings, table)
        if readings_wanted(os.environ):
            self._meter = _meter(engine_client, settings, table, sessions)
            self._meter.sinks.add("metrics", TurnMetrics(table).take)
            if await engine_client.is_tracing_enabled():
                self._meter.sinks.add("tracing", TurnSpans().take)
            engine_client.generate = measured(engine_client.generate)
        with telling():
            sinks = None if self._meter is None else self._meter.sinks
            state.mooring_history = start_history(os.environ, sinks, lambda: bool(state.server.should_exit))
            state.mooring_experiment = _assignments(settings, state.mooring_history.store, names[0])
        _choose_early(settings, names, state.mooring_experiment)
        state.mooring_announcement = asyncio.create_task(announce(args, settings))

    async def _prove(self, engine_client: Any) -> Settings:
        """Raise unless every process caps, and every profile does what it says."""
        settings = Settings.from_config(engine_client.vllm_config.additional_config)
        if settings is None:
            raise CannotServe(
                "VLLM_PLUGINS names mooring, but --additional-config has no 'mooring' settings\n"
                "  take the whole line that `mooring serve ... --print-command` prints, or take mooring out"
            )
        if not hooks.installed():
            raise CannotServe("mooring's general plugin was not loaded in the API server: profiles would go unchecked")
        await _all_agree(engine_client, settings)
        say("testing the cap with real requests ...")
        await probe_requests(
            settings, Scale.of(engine_client.vllm_config), _engine(engine_client), _watch(engine_client)
        )
        return settings


def endpoint_plugin() -> MooringPlugin:
    """The entry point."""
    return MooringPlugin()


async def _all_agree(engine_client: Any, settings: Settings) -> None:
    try:
        await engine_client.collective_rpc("mooring_agree", args=(settings.to_json(),))
    except Exception as error:
        raise CannotServe(
            f"not every worker caps with this server's table: {error}\n"
            "  every node must be started with --worker-cls mooring_hooks.worker.Worker and the same settings"
        ) from error


def _engine(engine_client: Any) -> Ask:
    """A function that answers one prompt of token ids under one profile."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    async def answer(prompt: Prompt) -> Answer:
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=prompt.max_tokens,
            ignore_eos=True,
            extra_args={hooks.PROFILE_KEY: prompt.profile, hooks.TRUST_KEY: hooks.TRUST},
            detokenize=False,
        )
        tokens, cached = 0, 0
        async for output in engine_client.generate(tokens_input(prompt.token_ids), parameters, prompt.request_id):
            tokens, cached = len(output.outputs[0].token_ids), output.num_cached_tokens or 0
        return Answer(tokens, cached)

    return answer


def _watch(engine_client: Any) -> Watch:
    """Functions that begin and end the watch of requests by the prefix of their ids."""

    async def begin(prefix: str) -> None:
        await engine_client.collective_rpc("mooring_watch", args=(prefix,))

    async def end(prefix: str) -> Any:
        return await engine_client.collective_rpc("mooring_readings", args=(prefix,))

    return Watch(begin, end)


def _assignments(settings: Settings, store: Store | None, model: str) -> Assignments | None:
    """Of the experiment that is run; None where there is none."""
    if (experiment := experiments.wanted(os.environ, settings)) is None:
        return None
    assignments = Assignments(experiment, store, model)
    assignments.watch()
    return assignments


def _choose_early(settings: Settings, served: list[str], experiment: Assignments | None) -> None:
    """Settle a request's profile while it is read: inside the engine a stream's status has already gone out."""
    from vllm.entrypoints.generate.base.serving import GenerateBaseServing
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    session_id = GenerateBaseServing._get_session_id

    def settle(request: Any) -> str:
        places = _places(settings, served, request)
        if len(set(map(str, places.values()))) > 1:
            raise _refusal(f"the request asks for different profiles: {places}: ask once, or for the same", places)
        name = next(iter(places.values()), settings.default)
        hooks.admit(settings, (request.vllm_xargs or {}) | ({hooks.PROFILE_KEY: name} if places else {}))
        turn = CURRENT.get()
        given = None if places or experiment is None or turn is None else _dealt(experiment, session_id, request, turn)
        return str(name) if given is None else given

    def settle_beam_search(request: Any) -> str:
        if places := _places(settings, served, request):
            raise _refusal(
                f"beam search runs under the server's default profile and cannot take one from {', '.join(places)}: "
                "leave out use_beam_search or the profile",
                places,
            )
        hooks.admit(settings, request.vllm_xargs or {})
        return str(settings.default)

    for kind in (ChatCompletionRequest, CompletionRequest, ResponsesRequest):
        _settle_before(kind, "to_sampling_params", settle, settings.default)
    for kind in (ChatCompletionRequest, CompletionRequest):
        _settle_before(kind, "to_beam_search_params", settle_beam_search, settings.default)


def _dealt(
    experiment: Assignments, session_id: Callable[[Any, Turn], str | None], request: Any, turn: Turn
) -> str | None:
    """The profile that the experiment gives a request; None where it gives none."""
    turn.request = request
    turn.identify(session_id(request, turn))
    if (given := experiment.give(turn.session)) is None:
        return None
    turn.arm = given.arm
    return given.profile


def _places(settings: Settings, served: list[str], request: Any) -> dict[str, Any]:
    turn = CURRENT.get()
    named = profile_in_name(settings, served, request.model)
    return asked_for(request.vllm_xargs or {}, turn.headers.get(HEADER) if turn is not None else None, named)


def _refusal(text: str, places: dict[str, Any]) -> Exception:
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(text, parameter=hooks.PROFILE_KEY, value=next(iter(places.values())))
    return error


def _meter(engine_client: Any, settings: Settings, table: SlotTable, sessions: Sessions) -> Meter:
    config = engine_client.vllm_config
    inbox = Inbox(len(table.layers), table.slots, tcp_host=_own_address(config.parallel_config))
    atexit.register(inbox.stop)
    slots = {name: slot for slot, name in enumerate(settings.names())}
    return Meter(inbox, Measure(table), slots, _thinking(engine_client), sessions)


def _own_address(parallel: Any) -> str | None:
    """Where workers on other nodes reach this process; None where there are none."""
    if parallel.nnodes <= 1 and parallel.data_parallel_size_local >= parallel.data_parallel_size:
        return None
    from vllm.utils.network_utils import get_ip

    return str(get_ip())


def _thinking(engine_client: Any) -> Thinking | None:
    """The marks that the server's reasoning parser goes by; None without one."""
    name = engine_client.vllm_config.structured_outputs_config.reasoning_parser
    if not name:
        return None
    from vllm.reasoning import ReasoningParserManager

    tokenizer = engine_client.get_tokenizer()
    return Thinking.of(ReasoningParserManager.get_reasoning_parser(name)(tokenizer), tokenizer, name)


def _turn_number(request: Any) -> int | None:
    """1 + the assistant's messages in the request; None where it holds no conversation."""
    said = member(request, "messages") or member(request, "input")
    if isinstance(said, str):
        return 1
    if not isinstance(said, list):
        return None
    roles = [m.get("role") if isinstance(m, dict) else getattr(m, "role", None) for m in said]
    return 1 + roles.count("assistant")


def _settle_before(kind: type, name: str, settle: Callable[[Any], str], default: str) -> None:
    """Wrap a request's method: settle the profile, note it for the response, and put it into what is returned."""
    method = getattr(kind, name)
    method = getattr(method, "mooring_original", method)

    @functools.wraps(method)
    def settled(self: Any, *args: Any, **kwargs: Any) -> Any:
        profile = settle(self)
        if (turn := CURRENT.get()) is not None:
            turn.request, turn.profile, turn.number = self, profile, _turn_number(self)
            turn.wants_tokens = bool((self.vllm_xargs or {}).get(hooks.TOKENS_KEY))
            turn.beam_search = name == "to_beam_search_params"
        params = method(self, *args, **kwargs)
        if profile != default:  # the default need not be selectable, so it is not asked for by name
            params.extra_args = (params.extra_args or {}) | {hooks.PROFILE_KEY: profile}
        return params

    settled.mooring_original = method  # type: ignore[attr-defined]
    setattr(kind, name, settled)
