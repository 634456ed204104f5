"""A real vLLM engine in this process, capped, for tests of the offline entry.

In-process because the tests look into the worker; the served path has its processes in tests/server.
"""

import gc
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mooring_axes.profiles import ResolvedProfile
from mooring_hooks.engine import TRUST
from mooring_hooks.inbox import Inbox, Rows
from mooring_hooks.table import INDUCTOR, Settings, SlotTable, publish, tables_folder

# Read when vLLM is imported or its configuration is made.
os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
    VLLM_PLUGINS="mooring",
    VLLM_USE_AOT_COMPILE="0",
    VLLM_USE_V2_MODEL_RUNNER="0",
    TOKENIZERS_PARALLELISM="false",
)

OPTIONS: dict[str, Any] = {
    "max_model_len": 512,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "block_size": 32,
    "seed": 0,
    "enable_prefix_caching": True,
    "disable_log_stats": False,
}
if shutil.which("nvidia-smi"):
    OPTIONS["gpu_memory_utilization"] = 0.2  # several engines at once, each of which would take nine tenths


class Engine:
    """`vllm.LLM` with the cap; `watch` brings every position's projections along."""

    def __init__(
        self,
        model: Path,
        profiles: Sequence[ResolvedProfile],
        default: str = "off",
        kernel: str = INDUCTOR,
        **options: Any,
    ) -> None:
        from vllm import LLM

        self.settings: Settings = publish(profiles, default, kernel=kernel)
        self.table = SlotTable.fetch(tables_folder(), self.settings.table)
        self.inbox = Inbox(len(self.table.layers), self.table.slots)
        self.llm = LLM(
            str(model),
            worker_cls="mooring_hooks.worker.Worker",
            additional_config={"mooring": self.settings.to_json()},
            **{**OPTIONS, **options},
        )

    @property
    def worker(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker

    def answer(self, prompts: Sequence[Any], profiles: Any, max_tokens: int = 12, **sampling: Any) -> list[Any]:
        """Greedy answers in one batch, each with `.reading` (what mooring_hooks.watch saw of every position) and
        `.rows` (what was sent about the generated ones, per choice)."""
        names = [profiles] * len(prompts) if profiles is None or isinstance(profiles, str) else profiles
        parameters = [sampling_params(name, max_tokens, **sampling) for name in names]
        tickets = [self.inbox.open(p.n) for p in parameters]
        for p, ticket in zip(parameters, tickets, strict=True):
            p.extra_args = (p.extra_args or {}) | ticket.to_extra_args(TRUST)
        self.llm.collective_rpc("mooring_watch", args=("",))
        outputs = self.llm.generate(
            [p if isinstance(p, str) else {"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False
        )
        readings = self.llm.collective_rpc("mooring_readings", args=("",))[0]
        for output, ticket in zip(outputs, tickets, strict=True):
            output.rows = [self.rows(ticket.number + i, len(o.token_ids)) for i, o in enumerate(output.outputs)]
            self.inbox.close(ticket)
            own = [r for request, r in readings.items() if request.split("-")[0] == output.request_id]
            output.reading = own[0] if len(own) == 1 else own
        return outputs

    def rows(self, number: int, tokens: int) -> Rows:
        """The answer's rows once they are complete, or what there is after a second."""
        until = time.monotonic() + 1
        while True:
            self.inbox.drain()
            rows = self.inbox.collect(number, tokens - 1)
            if len(rows) == tokens - 1 or time.monotonic() > until:
                return rows
            time.sleep(0.001)

    def close(self) -> None:
        self.inbox.stop()
        close(self.llm)
        del self.llm


def close(llm: Any) -> None:
    """Give back everything, so that the next engine of this process starts clean."""
    import torch
    from vllm.distributed import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    torch._dynamo.reset()
    cleanup_dist_env_and_memory()
    gc.collect()


def sampling_params(profile: str | None, max_tokens: int, **more: Any) -> Any:
    from vllm import SamplingParams

    extra = {"extra_args": {"mooring_profile": profile}} if profile is not None else {}
    defaults = {"temperature": 0.0, "logprobs": 0, "ignore_eos": True}
    return SamplingParams(max_tokens=max_tokens, **{**defaults, **extra, **more})


def stock_engine(model: Path, **options: Any) -> Any:
    """vLLM as it comes, in the same environment."""
    from vllm import LLM

    return LLM(str(model), **{**OPTIONS, **options})


def logprobs_of(output: Any) -> list[float]:
    """Of the tokens that were generated."""
    answer = output.outputs[0]
    return [step[token].logprob for step, token in zip(answer.logprobs, answer.token_ids, strict=True)]
