"""The servers that every client talks to: Mooring's, and stock vLLM for the one question whose fault an answer is."""

from collections.abc import Iterator

import pytest

from mooring_axes import demo
from mooring_server.plan import DEMO_OPTIONS, QUIET
from servers import Server, vllm_serve

TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
STOCK = QUIET | {"VLLM_PLUGINS": "", "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_USE_AOT_COMPILE": "0",
                 "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}  # fmt: skip


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(["demo", *TOOLS], tmp_path_factory.mktemp("clients") / "log") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="package")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same model on vLLM as it comes. It starts when a test asks for it, which most runs need not."""
    folder = tmp_path_factory.mktemp("stock")
    options = (word for option in DEMO_OPTIONS.items() for word in option)
    arguments = [str(demo.MODEL_DIR), "--served-model-name", "demo", *options, *TOOLS]
    with Server(arguments, folder / "log", vllm_serve(folder), **STOCK) as running:
        yield running.wait_until_ready()
