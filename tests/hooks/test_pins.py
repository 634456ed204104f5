"""vLLM's internals that Mooring leans on, pinned: when one moves, this says which and what depends on it.

Signatures are compared as they are in vLLM 0.32.0, and what cannot be seen in a signature by its source.
"""

import ast
import inspect
from pathlib import Path

import pytest
import vllm
import vllm.kernels  # registers the native operations
from vllm.entrypoints.anthropic import serving as anthropic_serving
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.generate.base.serving import GenerateBaseServing
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.launcher import serve_http
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.ir.ops import layernorm
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.plugins import load_general_plugins, load_plugins_by_group
from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins, init_endpoint_plugins_state
from vllm.v1.core import kv_cache_utils
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.request import Request
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from mooring_hooks.engine import VLLM_VERSION

ROOT = Path(__file__).parents[2]
ALLOWED = {"hooks/mooring_hooks/worker.py", "hooks/mooring_hooks/engine.py", "server/mooring_server/plugin.py"}


def original(function: object) -> object:
    return inspect.unwrap(function)  # type: ignore[arg-type]


def test_the_version_is_the_one_that_was_read() -> None:
    assert vllm.__version__.split("+")[0] == VLLM_VERSION


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (InputProcessor.process_inputs, ["self", "request_id", "prompt", "params", "supported_tasks"]),
        (EngineCore.preprocess_add_request, ["self", "request"]),
        (AsyncLLM.generate, ["self", "prompt", "sampling_params", "request_id"]),
        (GPUModelRunner._prepare_inputs, ["self", "scheduler_output", "num_scheduled_tokens"]),
        (GPUModelRunner._model_forward, ["self", "input_ids", "positions"]),
        (GPUModelRunner._dummy_run, ["self", "num_tokens", "cudagraph_runtime_mode", "force_attention"]),
        (Worker.load_model, ["self", "load_dummy_weights"]),
        (Worker.compile_or_warm_up_model, ["self"]),
        (Worker.wake_up, ["self", "tags"]),
        (RMSNorm.forward_native, ["self", "x", "residual"]),
        (GemmaRMSNorm.forward_native, ["self", "x", "residual"]),
    ],
)
def test_a_method_that_is_wrapped_takes_what_it_took(function: object, parameters: list[str]) -> None:
    found = list(inspect.signature(original(function)).parameters)  # type: ignore[arg-type]
    assert found[: len(parameters)] == parameters


@pytest.mark.parametrize(
    ("owner", "text", "why"),
    [
        (GPUModelRunner.execute_model, "self._prepare_inputs(", "rows are filled there, after the order is final"),
        (GPUModelRunner.execute_model, "self._model_forward(", "readings are taken after it"),
        (GPUModelRunner._prepare_inputs, "self.input_batch.num_computed_tokens_cpu", "positions come from it"),
        (EngineCore.preprocess_add_request, "Request.from_engine_core_request(", "the salt is set before it"),
        (Request.__init__, "self.cache_salt: str | None = cache_salt", "block hashes read it"),
        (Request.__init__, "self.update_block_hashes()", "prompt blocks are hashed at once, the rest later"),
        (kv_cache_utils.generate_block_hash_extra_keys, "request.cache_salt", "the salt is in the first block's hash"),
        (load_plugins_by_group, 'logger.exception("Failed to load plugin', "a failing import is only logged"),
        (load_general_plugins, "func()", "what register() raises propagates"),
        (RMSNorm.forward_native, "self.weight.data if self.pass_weight_add", "the weight multiplies in its own dtype"),
        (GemmaRMSNorm.forward_native, "self.weight.float() + 1.0", "Gemma's weight is an offset from one, in fp32"),
        (layernorm, "x = x + x_residual.to(torch.float32)", "slot 0 repeats this arithmetic"),
        (layernorm, "variance = x_var.pow(2).mean(dim=-1, keepdim=True)", "slot 0 repeats this arithmetic"),
        (layernorm, "x = x.to(weight.dtype) * weight", "slot 0 repeats this arithmetic"),
        (ChatCompletionRequest.to_sampling_params, "self.vllm_xargs", "a chosen profile travels in it"),
        (CompletionRequest.to_sampling_params, "self.vllm_xargs", "a chosen profile travels in it"),
        (ResponsesRequest.to_sampling_params, "self.vllm_xargs", "a chosen profile travels in it"),
        (ParentRequest.get_child_info, 'f"{index}_{self.request_id}"', "a choice finds its ticket by it"),
        (ParentRequest._get_child_sampling_params, "copy(self.sampling_params)", "choices share extra_args"),
        (GenerateBaseServing._get_session_id, "request.session_id", "the reply says vLLM's session"),
        (AsyncLLM.is_tracing_enabled, "otlp_traces_endpoint is not None", "spans of turns are made where it is"),
        (AsyncLLM.__init__, 'init_tracer("vllm.llm_engine"', "it sets the provider that spans of turns go to"),
        (OpenAIServingResponses, "request.store = False", "a response that is not kept is not gone on from"),
        (anthropic_serving, "await self.create_chat_completion(", "messages come as a chat request"),
        (OpenAIServingChat, "self.engine_client.generate(", "answers are followed from there"),
        (OpenAIServingCompletion, "self.engine_client.generate(", "answers are followed from there"),
        (OpenAIServingResponses, "self.engine_client.generate(", "answers are followed from there"),
        (OpenAIServingResponses, "ResponseCompletedEvent(", "the object goes into that event"),
        (anthropic_serving, 'wrap_data_with_event(data, "message_delta")', "the object goes into that event"),
        (attach_endpoint_plugins, "plugin.attach_router(app)", "the middleware goes in there"),
        (init_endpoint_plugins_state, "await plugin.init_state(", "what is raised there stops the start"),
        (build_app, "attach_endpoint_plugins(app, supported_tasks)", "plugins come before authentication is added"),
        (serve_http, "app.state.server = server", "an open stream of turns ends when its should_exit says so"),
        (serve_http, "server.should_exit = True", "an open stream of turns ends when it says so"),
        (ServeSubcommand.cmd, "uvloop.run(run_server(args))", "`mooring serve` runs the parts of `vllm serve`"),
    ],
)  # fmt: skip
def test_what_is_leant_on_still_stands_in_the_source(owner: object, text: str, why: str) -> None:
    assert text in inspect.getsource(original(owner)), f"{text!r} is gone: {why}"  # type: ignore[arg-type]


def test_requests_are_made_in_one_place_only() -> None:
    folder = Path(vllm.__file__).parent / "v1"
    callers = [p.name for p in folder.rglob("*.py") if "Request.from_engine_core_request(" in p.read_text()]
    assert callers == ["core.py"]


def test_only_three_files_import_vllm() -> None:
    importing = set()
    for path in [*ROOT.glob("*/mooring_*/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "vllm" for name in names):
                importing.add(str(path.relative_to(ROOT)))
    outside = {"server/mooring_server/serve.py", "server/mooring_server/offline.py"}
    assert importing <= ALLOWED | outside, "serve.py calls vLLM's own command and offline.py vllm.LLM: no internals"


def test_arrows_run_from_server_to_hooks_to_axes() -> None:
    forbidden = {"axes": ("mooring_hooks", "mooring_server"), "hooks": ("mooring_server",), "server": ()}
    for room, names in forbidden.items():
        for path in (ROOT / room).rglob("*.py"):
            assert not any(f"import {n}" in path.read_text() or f"from {n}" in path.read_text() for n in names), path
