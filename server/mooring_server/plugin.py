"""vLLM's `endpoint_plugins` entry point: the last checks before the port opens.

One of the three files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    attach_router   the middleware of choice.py goes in here: inside authentication, where --middleware would not be

    init_state      every process agrees on the table; a real request per profile shows the cap, the row map and
                    the isolation of the prefix cache. What is raised here stops the start.
    to_sampling_params, to_beam_search_params    of vLLM's request classes: a profile is read from wherever it was
                    asked for and checked before a stream begins; beam search, which drops it, refuses it
"""

import asyncio
import functools
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mooring_axes.errors import CannotServe
from mooring_hooks import engine as hooks
from mooring_hooks.progress import say, telling
from mooring_hooks.table import Settings
from mooring_server.announce import announce
from mooring_server.choice import CURRENT, ProfileMiddleware, asked_for, profile_in_name
from mooring_server.selftest import Answer, Ask, Prompt, Scale, Watch, probe_requests

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State


class MooringPlugin:
    """See the head of this file; the attributes are vLLM's `EndpointPlugin` protocol."""

    name = "mooring"
    required_tasks = None

    def attach_router(self, app: "FastAPI") -> None:
        app.add_middleware(ProfileMiddleware)

    async def init_state(self, engine_client: Any, state: "State", args: Namespace) -> None:
        if engine_client is None:
            return  # the render server has no engine, so nothing to cap
        with telling():
            settings = await self._prove(engine_client)
        _choose_early(settings, args.served_model_name or [args.model])
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
        await probe_requests(settings, _scale(engine_client.vllm_config), _engine(engine_client), _watch(engine_client))
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


def _scale(vllm_config: Any) -> Scale:
    cache, model = vllm_config.cache_config, vllm_config.model_config
    return Scale(
        block_size=cache.block_size,
        prefix_caching=bool(cache.enable_prefix_caching),
        max_tokens=model.max_model_len,
        vocabulary=model.get_vocab_size(),
    )


def _choose_early(settings: Settings, served: list[str]) -> None:
    """Settle a request's profile while it is read: inside the engine a stream's status has already gone out."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    def settle(request: Any) -> str:
        places = _places(settings, served, request)
        if len(set(map(str, places.values()))) > 1:
            raise _refusal(f"the request asks for different profiles: {places}: ask once, or for the same", places)
        name = next(iter(places.values()), settings.default)
        hooks.admit(settings, (request.vllm_xargs or {}) | ({hooks.PROFILE_KEY: name} if places else {}))
        return str(name)

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


def _places(settings: Settings, served: list[str], request: Any) -> dict[str, Any]:
    choice = CURRENT.get()
    named = profile_in_name(settings, served, request.model)
    return asked_for(request.vllm_xargs or {}, choice.header if choice is not None else None, named)


def _refusal(text: str, places: dict[str, Any]) -> Exception:
    from vllm.exceptions import VLLMValidationError

    error: Exception = VLLMValidationError(text, parameter=hooks.PROFILE_KEY, value=next(iter(places.values())))
    return error


def _settle_before(kind: type, name: str, settle: Callable[[Any], str], default: str) -> None:
    """Wrap a request's method: settle the profile, note it for the response, and put it into what is returned."""
    method = getattr(kind, name)
    method = getattr(method, "mooring_original", method)

    @functools.wraps(method)
    def settled(self: Any, *args: Any, **kwargs: Any) -> Any:
        profile = settle(self)
        if (choice := CURRENT.get()) is not None:
            choice.profile = profile
        params = method(self, *args, **kwargs)
        if profile != default:  # the default need not be selectable, so it is not asked for by name
            params.extra_args = (params.extra_args or {}) | {hooks.PROFILE_KEY: profile}
        return params

    settled.mooring_original = method  # type: ignore[attr-defined]
    setattr(kind, name, settled)
