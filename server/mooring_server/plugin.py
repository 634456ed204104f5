"""vLLM's `endpoint_plugins` entry point: the last checks before the port opens.

One of the three files that may name vLLM's internals (0.32.0); tests/server/test_pins.py fails when they move.

    init_state      every process agrees on the table; a real request per profile shows the cap, the row map and
                    the isolation of the prefix cache. What is raised here stops the start.
    to_sampling_params, to_beam_search_params    of vLLM's request classes: profiles are checked before a stream
                    begins, and refused with beam search
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
from mooring_server.selftest import Answer, Ask, Prompt, Scale, Watch, probe_requests

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State


class MooringPlugin:
    """See the head of this file; the attributes are vLLM's `EndpointPlugin` protocol."""

    name = "mooring"
    required_tasks = None

    def attach_router(self, app: "FastAPI") -> None:
        """No routes of our own yet; vLLM's are served as they are."""

    async def init_state(self, engine_client: Any, state: "State", args: Namespace) -> None:
        if engine_client is None:
            return  # the render server has no engine, so nothing to cap
        with telling():
            await self._prove(engine_client)
        state.mooring_announcement = asyncio.create_task(announce(args, engine_client.vllm_config.additional_config))

    async def _prove(self, engine_client: Any) -> None:
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
        _check_requests_early(settings)


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


def _check_requests_early(settings: Settings) -> None:
    """Refuse a profile while the request is read: inside the engine a stream's status has already gone out.

    Beam search drops `vllm_xargs`, so a profile asked for with it would be forgotten there.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    for request in (ChatCompletionRequest, CompletionRequest, ResponsesRequest):
        _check_before(request, "to_sampling_params", lambda xargs: hooks.admit(settings, xargs))
    for request in (ChatCompletionRequest, CompletionRequest):
        _check_before(request, "to_beam_search_params", _refuse_under_beam_search)


def _check_before(request: type, name: str, check: Callable[[dict[str, Any]], None]) -> None:
    method = getattr(request, name)
    method = getattr(method, "mooring_original", method)

    @functools.wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self.vllm_xargs or {})
        return method(self, *args, **kwargs)

    checked.mooring_original = method  # type: ignore[attr-defined]
    setattr(request, name, checked)


def _refuse_under_beam_search(xargs: dict[str, Any]) -> None:
    from vllm.exceptions import VLLMValidationError

    if named := [key for key in xargs if key.startswith(hooks.RESERVED)]:
        raise VLLMValidationError(
            f"beam search runs under the server's default profile and cannot take {named[0]!r}: "
            "leave out use_beam_search or the profile",
            parameter="use_beam_search",
        )
