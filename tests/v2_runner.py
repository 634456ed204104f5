"""vLLM's V2 model runner on a CPU, for tests: `pytest -p v2_runner FILE`.

V2 prepares its batches with Triton kernels, and Triton has no CPU backend here. Its interpreter runs them in Python:
slow, and exact. vLLM asks only whether a backend named `cpu` is there and active, so one is named; nothing is ever
compiled for it, and the model runs eager. Async scheduling, which vLLM switches off on CPUs, is on as on GPUs: the
scheduler plans a step before it has seen the tokens of the one before.
"""

import os
from types import SimpleNamespace
from typing import Any

import engines

os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")
engines.OPTIONS["enforce_eager"] = True

from triton.backends import Backend, backends  # noqa: E402  (reads TRITON_INTERPRET)

backends["cpu"] = Backend(compiler=None, driver=SimpleNamespace(is_active=lambda: True))  # type: ignore[arg-type]

from vllm.platforms.cpu import CpuPlatform  # noqa: E402  (looks for Triton's backends)

check = CpuPlatform.check_and_update_config


def check_and_schedule_ahead(config: Any) -> None:
    check(config)
    config.scheduler_config.async_scheduling = True


CpuPlatform.check_and_update_config = staticmethod(check_and_schedule_ahead)
