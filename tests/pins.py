"""vLLM's internals that Mooring leans on, as data that any tree of vLLM's source can be held against.

    python tests/pins.py 0.33.0    what has moved in that release
    python tests/pins.py           the same for the newest one; writes tests/results/pins-newest.json

Only source is read, so a vLLM that is neither installed nor installable here can be judged: a method that is
wrapped must take what it took, a line that is leant on must stand where it stood, and every name that Mooring
imports must be there. tests/hooks/test_pins.py holds the installed version against the same list.
"""

import ast
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "tests" / "results" / "pins-newest.json"


class Pin(NamedTuple):
    file: str
    """Below the package `vllm`."""
    where: str
    """Qualified name in that file; empty: anywhere."""
    wants: str
    """`(a, b)`: its parameters begin with these. Anything else: this text stands in it."""
    why: str


# Files that more than one pin names.
RUNNER_V1, RUNNER_V2 = "v1/worker/gpu_model_runner.py", "v1/worker/gpu/model_runner.py"
BATCH_V1, BLOCKS_V1 = "v1/worker/gpu_input_batch.py", "v1/worker/block_table.py"
STATES_V2, BLOCKS_V2 = "v1/worker/gpu/states.py", "v1/worker/gpu/block_table.py"
WORKER, SCHEDULED = "v1/worker/gpu_worker.py", "v1/core/sched/output.py"
ENGINE, REQUEST, PARALLEL = "v1/engine/core.py", "v1/request.py", "v1/engine/parallel_sampling.py"
CONFIG_PARALLEL = "config/parallel.py"
NORM, IR = "model_executor/layers/layernorm.py", "ir/ops/layernorm.py"
PLUGINS, ENDPOINTS = "plugins/__init__.py", "plugins/endpoint_plugins/interface.py"
OPENAI = "entrypoints/openai"

PINS = [
    Pin("v1/engine/input_processor.py", "InputProcessor.process_inputs",
        "(self, request_id, prompt, params, supported_tasks)", "admission"),
    Pin(ENGINE, "EngineCore.preprocess_add_request", "(self, request)", "the salt is set there"),
    Pin(ENGINE, "EngineCore.preprocess_add_request", "Request.from_engine_core_request(", "the salt is set before it"),
    Pin(REQUEST, "Request.__init__", "self.cache_salt: str | None = cache_salt", "block hashes read it"),
    Pin(REQUEST, "Request.__init__", "self.update_block_hashes()", "prompt blocks are hashed at once, the rest later"),
    Pin(REQUEST, "Request", "self._block_hasher", "generated blocks of a response profile are hashed apart by it"),
    Pin("v1/core/kv_cache_utils.py", "generate_block_hash_extra_keys", "request.cache_salt",
        "the salt is in the first block's hash"),
    Pin("v1/engine/async_llm.py", "AsyncLLM.generate", "(self, prompt, sampling_params, request_id)", "answers"),
    # the worker
    Pin(WORKER, "Worker.load_model", "(self, load_dummy_weights)", "the cap goes in behind it"),
    Pin(WORKER, "Worker.compile_or_warm_up_model", "(self)", "the self-test runs behind it"),
    Pin(WORKER, "Worker.compile_or_warm_up_model", "self.model_runner.capture_model()", "and so on captured graphs"),
    Pin(WORKER, "Worker.sleep", "(self, level)", "a self-test waits for the wake-up"),
    Pin(WORKER, "Worker.wake_up", "(self, tags)", "the self-test runs behind it"),
    Pin(WORKER, "Worker.wake_up", "model.named_buffers()", "sleep and wake-up keep the tables, in place"),
    Pin(WORKER, "Worker.reload_weights", "", "the self-test runs behind it"),
    Pin("v1/worker/cpu_worker.py", "CPUWorker", "self.model_runner", "the CPU's worker runs the same"),
    Pin("utils/torch_utils.py", "async_tensor_h2d", "(data, device, dtype, out)", "row -> slot goes to the device"),
    Pin("utils/torch_utils.py", "async_tensor_h2d", "pin_memory=True", "from host memory of its own each time"),
    Pin("config/vllm.py", "VllmConfig.use_v2_model_runner", "(self)", "which runner is followed"),
    # the V1 model runner
    Pin(RUNNER_V1, "GPUModelRunner._prepare_inputs", "(self, scheduler_output, num_scheduled_tokens)", "row order"),
    Pin(RUNNER_V1, "GPUModelRunner._prepare_inputs", "self.input_batch.num_computed_tokens_cpu", "positions"),
    Pin(RUNNER_V1, "GPUModelRunner._model_forward", "(self, input_ids, positions)", "readings are taken behind it"),
    Pin(RUNNER_V1, "GPUModelRunner.execute_model", "self._prepare_inputs(", "rows are filled there, in final order"),
    Pin(RUNNER_V1, "GPUModelRunner.execute_model", "self._model_forward(", "readings are taken behind it"),
    Pin(RUNNER_V1, "GPUModelRunner._dummy_run",
        "(self, num_tokens, cudagraph_runtime_mode, force_attention, uniform_decode)", "the self-test's batches"),
    Pin(RUNNER_V1, "GPUModelRunner._dummy_run", "outputs = self.model(", "a dummy batch passes none of our wrappers"),
    Pin(RUNNER_V1, "GPUModelRunner._dummy_run", "cudagraph_runtime_mode = _cudagraph_mode",
        "a dummy batch runs in the graph that vLLM captured for its shape"),
    Pin(RUNNER_V1, "GPUModelRunner._dummy_run", "force_uniform_decode=uniform_decode", "which shape that is"),
    Pin(RUNNER_V1, "GPUModelRunner", "self.uniform_decode_query_len =", "rows of a request in a step of decoding"),
    Pin(RUNNER_V1, "GPUModelRunner", "self.max_num_reqs =", "requests a dummy batch may have"),
    Pin(RUNNER_V1, "GPUModelRunner", "self.max_num_tokens =", "length of the row buffer"),
    Pin(RUNNER_V1, "GPUModelRunner", "self.requests:", "profile and ticket of a request"),
    Pin(BATCH_V1, "CachedRequestState", "sampling_params: SamplingParams | None", "profile and ticket of a request"),
    Pin(BATCH_V1, "CachedRequestState", "num_prompt_tokens", "where a request's own tokens begin"),
    Pin(BATCH_V1, "InputBatch", "def req_ids(self)", "row order"),
    Pin(BATCH_V1, "InputBatch", "self.req_id_to_index:", "row order"),
    Pin(BATCH_V1, "InputBatch", "self.num_computed_tokens_cpu =", "positions"),
    Pin(BLOCKS_V1, "MultiGroupBlockTable", "self.block_tables =", "the ledger, one table per group"),
    Pin(BLOCKS_V1, "BlockTable", "self.block_size =", "the ledger"),
    Pin("v1/core/block_pool.py", "BlockPool.__init__", "self.null_block = self.free_block_queue.popleft()",
        "the ledger: block 0 is nobody's"),
    Pin(BLOCKS_V1, "BlockTable", "self.block_table =", "the ledger"),
    # the V2 model runner
    Pin(RUNNER_V2, "GPUModelRunner.prepare_inputs", "(self, scheduler_output, batch_req_state)", "row order"),
    Pin(RUNNER_V2, "GPUModelRunner.prepare_inputs", "req_ids = batch_req_state.req_ids", "row order"),
    Pin(RUNNER_V2, "GPUModelRunner.prepare_inputs", "self.req_states.num_computed_tokens_np[idx_mapping_np]",
        "positions, the same as ours"),
    Pin(RUNNER_V2, "GPUModelRunner.execute_model", "(self, scheduler_output, intermediate_tensors, dummy_run)",
        "readings are taken behind it"),
    Pin(RUNNER_V2, "GPUModelRunner.execute_model", "input_batch = self.prepare_inputs(", "real batches only"),
    Pin(RUNNER_V2, "GPUModelRunner.execute_model", "input_batch = InputBatch.make_dummy(",
        "dummy batches pass by prepare_inputs"),
    Pin(RUNNER_V2, "GPUModelRunner.execute_model", "model_output = self.cudagraph_manager.run_fullgraph(batch_desc)",
        "a dummy batch runs in the graph that vLLM captured for its shape"),
    Pin(RUNNER_V2, "GPUModelRunner.execute_model", "self.execute_model_state = ExecuteModelState(",
        "a dummy batch's hidden states, which must not stay for the next sampling"),
    Pin(RUNNER_V2, "GPUModelRunner.execute_model", "self.update_requests(scheduler_output)",
        "positions are those of this step before rows are filled"),
    Pin(RUNNER_V2, "GPUModelRunner.add_requests", "new_req_data.block_ids, overwrite=True", "blocks of a new request"),
    Pin(RUNNER_V2, "GPUModelRunner.update_requests", "req_new_block_ids, overwrite=False", "blocks of a known one"),
    Pin(RUNNER_V2, "GPUModelRunner._dummy_run", "(self, num_tokens)", "models whose sites have to be proven"),
    Pin(RUNNER_V2, "GPUModelRunner._dummy_run", "skip_attn: bool", "a pass before there is a KV cache"),
    Pin(RUNNER_V2, "GPUModelRunner", "self.decode_query_len =", "rows of a request in a step of decoding"),
    Pin(RUNNER_V2, "GPUModelRunner", "self.intermediate_tensors", "what a later pipeline stage is given"),
    Pin(RUNNER_V2, "GPUModelRunner", "self.max_num_reqs =", "how many requests have an index"),
    Pin(RUNNER_V2, "GPUModelRunner", "self.max_num_tokens =", "length of the row buffer"),
    Pin(RUNNER_V2, "BatchReqState", "idx_mapping_np: np.ndarray", "row order"),
    Pin(RUNNER_V2, "BatchReqState", "num_scheduled_tokens: np.ndarray", "rows of each request"),
    Pin(RUNNER_V2, "ExecuteModelState", "hidden_states:", "what a dummy batch came to"),
    Pin(STATES_V2, "RequestState", "self.req_id_to_index:", "index of a request"),
    Pin(STATES_V2, "RequestState", "self.num_computed_tokens_np =", "positions"),
    Pin(BLOCKS_V2, "BlockTables", "self.block_sizes =", "the ledger"),
    Pin(BLOCKS_V2, "BlockTables", "self.block_tables: list[StagedWriteTensor]", "the ledger"),
    Pin(BLOCKS_V2, "BlockTables", "self.max_num_reqs =", "the ledger"),
    Pin("v1/worker/gpu/cudagraph_utils.py", "_is_compatible", "desc.uniform_token_count == uniform_token_count",
        "which graph a dummy runs in"),
    Pin(SCHEDULED, "NewRequestData", "sampling_params: SamplingParams | None", "profile and ticket of a request"),
    Pin(SCHEDULED, "NewRequestData", "block_ids: tuple[list[int], ...]", "the ledger"),
    Pin(SCHEDULED, "NewRequestData.prompt_len", "(self)", "where a request's own tokens begin"),
    Pin(SCHEDULED, "CachedRequestData", "new_block_ids: list[tuple[list[int], ...] | None]", "the ledger"),
    Pin(SCHEDULED, "CachedRequestData", "resumed_req_ids: set[str]", "the ledger"),
    Pin(SCHEDULED, "SchedulerOutput.make_empty", "()", "dummy batches"),
    Pin("v1/core/sched/scheduler.py", "Scheduler", "scheduled_new_reqs.extend(scheduled_resumed_reqs)",
        "on V2 a preempted request comes back as a new one"),
    # arithmetic that slot 0 repeats
    Pin(NORM, "RMSNorm.forward_native", "(self, x, residual)", "the norm that is changed"),
    Pin(NORM, "GemmaRMSNorm.forward_native", "(self, x, residual)", "the norm that is changed"),
    Pin(NORM, "RMSNorm.forward_native", "self.weight.data if self.pass_weight_add", "the weight multiplies as it is"),
    Pin(NORM, "GemmaRMSNorm.forward_native", "self.weight.float() + 1.0", "Gemma's weight is an offset, in fp32"),
    Pin(IR, "", "x = x + x_residual.to(torch.float32)", "slot 0 repeats this arithmetic"),
    Pin(IR, "", "variance = x_var.pow(2).mean(dim=-1, keepdim=True)", "slot 0 repeats this arithmetic"),
    Pin(IR, "", "x = x.to(weight.dtype) * weight", "slot 0 repeats this arithmetic"),
    # the API process
    Pin(PLUGINS, "load_plugins_by_group", 'logger.exception("Failed to load plugin', "a failing import is only logged"),
    Pin(PLUGINS, "load_general_plugins", "func()", "what register() raises propagates"),
    Pin(f"{OPENAI}/chat_completion/protocol.py", "ChatCompletionRequest.to_sampling_params", "self.vllm_xargs",
        "a chosen profile travels in it"),
    Pin(f"{OPENAI}/completion/protocol.py", "CompletionRequest.to_sampling_params", "self.vllm_xargs",
        "a chosen profile travels in it"),
    Pin(f"{OPENAI}/responses/protocol.py", "ResponsesRequest.to_sampling_params", "self.vllm_xargs",
        "a chosen profile travels in it"),
    Pin(PARALLEL, "ParentRequest.get_child_info", 'f"{index}_{self.request_id}"', "a choice finds its ticket by it"),
    Pin(PARALLEL, "ParentRequest._get_child_sampling_params", "copy(self.sampling_params)", "choices share extra_args"),
    Pin("entrypoints/generate/base/serving.py", "GenerateBaseServing._get_session_id", "request.session_id",
        "the reply says vLLM's session"),
    Pin("entrypoints/generate/base/serving.py", "GenerateBaseServing._get_session_id", "(request, raw_request)",
        "an experiment deals by it"),
    # `mooring bench load`
    Pin("benchmarks/serve.py", "main_async", "(args)", "a block of load is one call of it"),
    Pin("benchmarks/serve.py", "benchmark", '"latencies": [output.latency for output in outputs]',
        "every request's own numbers, in the order of the requests"),
    Pin("benchmarks/serve.py", "benchmark", "lora_modules_list[i % len(lora_modules_list)]",
        "a mixed load is dealt to the arms in turn"),
    Pin("v1/engine/async_llm.py", "AsyncLLM.is_tracing_enabled", "otlp_traces_endpoint is not None",
        "spans of turns are made where it is"),
    Pin("v1/engine/async_llm.py", "AsyncLLM.__init__", 'init_tracer("vllm.llm_engine"',
        "it sets the provider that spans of turns go to"),
    Pin(f"{OPENAI}/responses/serving.py", "OpenAIServingResponses", "request.store = False",
        "a response that is not kept is not gone on from"),
    Pin("entrypoints/anthropic/serving.py", "", "await self.create_chat_completion(", "messages are chat requests"),
    Pin(f"{OPENAI}/chat_completion/serving.py", "OpenAIServingChat", "self.engine_client.generate(", "answers"),
    Pin(f"{OPENAI}/completion/serving.py", "OpenAIServingCompletion", "self.engine_client.generate(", "answers"),
    Pin(f"{OPENAI}/responses/serving.py", "OpenAIServingResponses", "self.engine_client.generate(", "answers"),
    Pin(f"{OPENAI}/responses/serving.py", "OpenAIServingResponses", "ResponseCompletedEvent(", "our object's place"),
    Pin("entrypoints/anthropic/serving.py", "", 'wrap_data_with_event(data, "message_delta")', "our object's place"),
    Pin("config/structured_outputs.py", "StructuredOutputsConfig", "reasoning_parser: str", "thinking is left out"),
    Pin("reasoning/abs_reasoning_parsers.py", "ReasoningParser.reasoning_start_str", "(self)", "marks of thinking"),
    Pin("reasoning/abs_reasoning_parsers.py", "ReasoningParser.reasoning_end_str", "(self)", "marks of thinking"),
    Pin("reasoning/abs_reasoning_parsers.py", "ReasoningParserManager.get_reasoning_parser", "(name)",
        "marks of thinking"),
    Pin(f"{OPENAI}/responses/protocol.py", "ResponsesRequest", "background: bool", "it is answered later: unmeasured"),
    # what is refused
    Pin(CONFIG_PARALLEL, "ParallelConfig", "prefill_context_parallel_size: int", "refused"),
    Pin(CONFIG_PARALLEL, "ParallelConfig", "decode_context_parallel_size: int", "refused"),
    Pin(CONFIG_PARALLEL, "ParallelConfig", "def use_sequence_parallel_moe(self)", "refused"),
    Pin(CONFIG_PARALLEL, "ParallelConfig", "def use_ubatching(self)", "refused"),
    Pin(CONFIG_PARALLEL, "ParallelConfig", "nnodes: int", "readings go over TCP between nodes"),
    Pin(CONFIG_PARALLEL, "ParallelConfig", "data_parallel_size_local: int", "readings go over TCP between nodes"),
    Pin("config/cache.py", "CacheConfig", "kv_sharing_fast_prefill: bool", "refused"),
    Pin("config/scheduler.py", "SchedulerConfig", "async_scheduling: bool | None", "refused with speculation"),
    Pin("config/model.py", "ModelConfig", "self.runner_type =", "refused unless it generates"),
    Pin("config/model.py", "ModelConfig", "def is_hybrid(self)", "refused"),
    Pin("config/model.py", "ModelConfig", "def is_encoder_decoder(self)", "refused"),
    Pin("config/model.py", "ModelConfig", "def architecture(self)", "which modules are norms"),
    Pin("config/vllm.py", "VllmConfig", "speculative_config: SpeculativeConfig | None", "refused on V2"),
    Pin("config/vllm.py", "VllmConfig", "kv_transfer_config: KVTransferConfig | None", "refused"),
    Pin("config/vllm.py", "VllmConfig", "additional_config: dict", "the settings travel in it"),
    Pin("envs.py", "", "VLLM_BATCH_INVARIANT: bool", "refused"),
    Pin("envs.py", "", "VLLM_USE_RUST_FRONTEND: bool", "refused"),
    Pin("envs.py", "", "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION: bool", "refused"),
    # offline
    Pin("v1/engine/llm_engine.py", "LLMEngine.__init__", "self.engine_core =", "an offline engine is shut down"),
    Pin("v1/engine/llm_engine.py", "LLMEngine.__init__", "self.vllm_config =", "what the probes must fit"),
    Pin(ENDPOINTS, "attach_endpoint_plugins", "plugin.attach_router(app)", "the middleware goes in there"),
    Pin(ENDPOINTS, "init_endpoint_plugins_state", "await plugin.init_state(", "what is raised there stops the start"),
    Pin("entrypoints/launchers/app.py", "build_app", "attach_endpoint_plugins(app, supported_tasks)",
        "plugins come before authentication is added"),
    Pin("entrypoints/launchers/launcher.py", "serve_http", "app.state.server = server",
        "an open stream of turns ends when its should_exit says so"),
    Pin("entrypoints/launchers/launcher.py", "serve_http", "server.should_exit = True",
        "an open stream of turns ends when it says so"),
    Pin("entrypoints/cli/serve.py", "ServeSubcommand.cmd", "uvloop.run(run_server(args))",
        "`mooring serve` runs the parts of `vllm serve`"),
]  # fmt: skip


class Broken(NamedTuple):
    """Something that is not as Mooring needs it."""

    what: str
    wanted: str
    found: str
    why: str


def broken(tree: Path) -> list[Broken]:
    """All of it; `tree` is the folder of the package `vllm`."""
    faults = [fault for pin in PINS if (fault := check(tree, pin))]
    return faults + [fault for name, user in imported() if (fault := check_import(tree, name, user))]


def check(tree: Path, pin: Pin) -> Broken | None:
    """What is wrong with one pin."""
    what = f"{pin.file}: {pin.where or 'the file'}"
    source = read(tree / pin.file)
    if source is None:
        return Broken(what, pin.wants, "no such file", pin.why)
    nodes = named(source, pin.where)
    if not nodes:
        return Broken(what, pin.wants, "no such name", pin.why)
    if not pin.wants.startswith("("):
        there = any(pin.wants in (ast.get_source_segment(source.text, node) or "") for node in nodes)
        there = there or (not pin.where and pin.wants in source.text)
        return None if there else Broken(what, pin.wants, "the text is gone", pin.why)
    wanted = pin.wants.strip("()").split(", ") if pin.wants != "()" else []
    # An @overload comes before the definition that counts.
    found = [a.arg for a in all_parameters(nodes[-1])]
    return None if found[: len(wanted)] == wanted else Broken(what, pin.wants, f"({', '.join(found)})", pin.why)


class Source(NamedTuple):
    text: str
    tree: ast.Module


@cache
def read(file: Path) -> Source | None:
    if not file.is_file():
        return None
    text = file.read_text()
    return Source(text, ast.parse(text))


def named(source: Source, where: str) -> list[ast.AST]:
    """Definitions of a qualified name; the module itself for an empty one."""
    found: list[ast.AST] = [source.tree]
    for name in filter(None, where.split(".")):
        found = [child for node in found for child in definitions(node) if child.name == name]  # type: ignore[attr-defined]
    return found


def definitions(node: ast.AST) -> Iterator[ast.AST]:
    """Classes and functions in a scope, also behind `if` and `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif not isinstance(child, ast.expr):
            yield from definitions(child)


def all_parameters(node: ast.AST) -> list[ast.arg]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if any(isinstance(d, ast.Name) and d.id == "classmethod" for d in node.decorator_list):
        arguments = arguments[1:]
    return arguments


def imported() -> list[tuple[str, str]]:
    """(`vllm.a.b.Name` or a module, the file that imports it) of everything in Mooring."""
    found = []
    for path in sorted(ROOT.glob("*/mooring_*/**/*.py")):
        user = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(a.name, user) for a in node.names if a.name.split(".")[0] == "vllm"]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found += [(f"{node.module}.{a.name}", user) for a in node.names]
    return found


def check_import(tree: Path, name: str, user: str) -> Broken | None:
    """Whether a dotted name leads to a module, or to a name that one defines, imports or makes on demand."""
    path = tree.joinpath(*name.split(".")[1:])
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return None
    owner = read(path.parent.with_suffix(".py")) or read(path.parent / "__init__.py")
    if owner is None:
        return Broken(name, "a module", "no such module", f"{user} imports it")
    if path.name in names(owner) or any(path.name in names(other) for other in star_imports(tree, owner)):
        return None
    return Broken(name, f"a name in {'.'.join(name.split('.')[:-1])}", "no such name", f"{user} imports it")


def names(source: Source) -> set[str]:
    """What a module binds anywhere at its top level; strings too, where it makes names on demand."""
    found = {node.name for node in definitions(source.tree)}  # type: ignore[attr-defined]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "__getattr__" in found:
            found.add(node.value)
    return found


def star_imports(tree: Path, source: Source) -> Iterator[Source]:
    """Modules beside the package's __init__ from which it imports everything."""
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.names[0].name == "*":
            for path in tree.rglob(f"{node.module}.py"):
                if (other := read(path)) is not None and read(path.parent / "__init__.py") is source:
                    yield other


def installed() -> Path:
    """The package in this environment, found without importing it."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None, "vLLM is not installed"
    return Path(spec.origin).parent


def download(version: str | None, folder: Path) -> tuple[str, Path]:
    """(version, package folder) of a release's source archive, the newest one if none is named; only unpacked."""
    from pip._internal.models.index import PyPI
    from unearth import PackageFinder

    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    ).stdout.strip()
    finder = PackageFinder(index_urls=[configured or PyPI.simple_url], no_binary=["vllm"])
    best = finder.find_best_match(f"vllm=={version}" if version else "vllm").best
    if best is None:
        raise SystemExit(f"the configured package index has no source archive of vLLM {version or ''}")
    tree = finder.download_and_unpack(best.link, folder, folder)
    return str(best.version), tree / "vllm"


def report(version: str | None = None) -> dict[str, object]:
    """What would break with a release, as it is written to RESULT."""
    with tempfile.TemporaryDirectory() as folder:
        found, tree = download(version, Path(folder))
        faults = broken(tree)
    return {
        "made_for": pinned_version(),
        "vllm": found,
        "date": datetime.now(UTC).date().isoformat(),
        "pins": len(PINS),
        "imports": len(imported()),
        "broken": [fault._asdict() for fault in faults],
    }


def pinned_version() -> str:
    sys.path[:0] = [str(ROOT / room) for room in ("axes", "hooks")]
    from mooring_hooks.engine import VLLM_VERSION

    return VLLM_VERSION


def main(arguments: list[str]) -> int:
    result = report(arguments[0] if arguments else None)
    text = json.dumps(result, indent=2)
    print(text)
    if not arguments:
        RESULT.write_text(text + "\n")
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
