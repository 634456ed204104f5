"""vLLM's V2 model runner on a CUDA device, for tests: `PYTHONPATH=tests pytest -p v2_on_cuda FILE`.

Compiled and in CUDA graphs, as it is served there. Otherwise tests take V1, the one that runs everywhere.
"""

import os

import engines  # noqa: F401  (asks for V1 when it is imported)

os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
