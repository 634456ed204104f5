"""vLLM's request path: who is admitted, and which prefix cache a request may read.

One of the files that may name vLLM's internals (0.32.0); tests/hooks/test_pins.py fails when they move.

    InputProcessor.process_inputs       (API process, offline LLM) every entry passes here: an unknown or not
                                        selectable profile is a client error, 400 on every route
    EngineCore.preprocess_add_request   (engine process) the only place where a Request is made from what came in,
                                        before its block hashes: the profile's digest goes into `cache_salt`

KV computed under a profile is a function of tokens and profile. With positions `all` the salt separates the
profiles from the first block on. With `response` the prompt is read uncapped, so its blocks are those of `off`
and stay shared; every block that holds a generated token gets a hash of its own that no other request can name.
"""

import functools
import hashlib
import os
import secrets
from collections.abc import Callable
from typing import Any, Final

from mooring_axes.errors import CannotServe
from mooring_hooks.frames import READING_KEY
from mooring_hooks.table import ProfileEntry, Settings

VLLM_VERSION: Final = "0.32.0"
ALLOW_VARIABLE: Final = "MOORING_ALLOW_VLLM"
"""Names another version that may be tried; only that very one is let through."""
MINIMUM_CAPABILITY: Final = (8, 0)
"""Of CUDA devices: what Triton compiles for, and the first with bfloat16."""
PROFILE_KEY: Final = "mooring_profile"
"""Key of `vllm_xargs` (HTTP) or `SamplingParams.extra_args` (offline) that names a profile."""
TOKENS_KEY: Final = "mooring_tokens"
"""Key of `vllm_xargs` that asks for the projections of every token: 1 or 0 (true and false arrive as these)."""
RESERVED: Final = "mooring"
"""Beginning of every key of ours; one we do not know is refused, so that a misspelt one is not ignored."""
TRUST_KEY: Final = "mooring.trusted"
TRUST: Final = secrets.token_hex(16)
"""Lets this process's own self-test ask for profiles that clients may not choose."""


def install() -> None:
    """Wrap both methods, once per process."""
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.input_processor import InputProcessor

    for owner, name, wrap in (
        (InputProcessor, "process_inputs", _admit_first),
        (EngineCore, "preprocess_add_request", _salt_first),
    ):
        method = getattr(owner, name)
        if not getattr(method, "mooring", False):
            wrapped = functools.wraps(method)(wrap(method))
            wrapped.mooring = True  # type: ignore[attr-defined]
            setattr(owner, name, wrapped)


def installed() -> bool:
    """Whether this process wrapped what it has to wrap."""
    from vllm.v1.engine.input_processor import InputProcessor

    return bool(getattr(InputProcessor.process_inputs, "mooring", False))


def _admit_first(process_inputs: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        settings = Settings.from_config(self.vllm_config.additional_config)
        if settings is not None:
            admit(settings, getattr(params, "extra_args", None) or {})
        return process_inputs(self, request_id, prompt, params, *args, **kwargs)

    return wrapped


def _salt_first(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(self: Any, request: Any) -> Any:
        settings = Settings.from_config(self.vllm_config.additional_config)
        if settings is None:
            return preprocess(self, request)
        entry = profile_of(settings, request.sampling_params)
        if request.resumable:
            raise CannotServe("streaming input is not capped yet: send the whole prompt in one request")
        if entry.digest and entry.positions == "all":
            request.cache_salt = salt(entry, request.cache_salt)
        made = preprocess(self, request)
        if entry.digest and entry.positions == "response":
            made[0]._block_hasher = private_tail(made[0]._block_hasher)
        return made

    return wrapped


def admit(settings: Settings, extra_args: dict[str, Any]) -> None:
    """Refuse, as the client's mistake, what does not name a profile that clients may choose."""
    from vllm.exceptions import VLLMValidationError

    if extra_args.get(TRUST_KEY) == TRUST:
        return
    if unknown := [key for key in extra_args if _foreign(key, extra_args[key])]:
        raise VLLMValidationError(
            f"{unknown[0]!r} is not a parameter of Mooring's; there are {PROFILE_KEY!r} and {TOKENS_KEY!r}",
            parameter="vllm_xargs",
        )
    if extra_args.get(TOKENS_KEY, 0) not in (0, 1):
        raise VLLMValidationError(
            f"{TOKENS_KEY} is {extra_args[TOKENS_KEY]!r}, and it is true or false", parameter=TOKENS_KEY
        )
    if PROFILE_KEY not in extra_args:
        return
    name, choices = extra_args[PROFILE_KEY], settings.selectable()
    if name not in choices:
        raise VLLMValidationError(
            f"{PROFILE_KEY} {name!r} is not a profile that can be chosen here; "
            f"choose one of {', '.join(choices) or '(none)'}, or leave it out for the server's own",
            parameter=PROFILE_KEY,
        )


def _foreign(key: str, value: Any) -> bool:
    """Whether a client invented a key of ours; a ticket is one of this process if it begins with the secret."""
    if key == READING_KEY:
        return not (isinstance(value, list) and value[:1] == [TRUST])
    return key.startswith(RESERVED) and key not in (PROFILE_KEY, TOKENS_KEY)


def profile_of(settings: Settings, sampling_params: Any) -> ProfileEntry:
    """The profile a request runs under; a name that is not served is refused, never replaced."""
    extra = getattr(sampling_params, "extra_args", None) or {}
    name = extra.get(PROFILE_KEY, settings.default)
    if name not in settings.names():
        raise CannotServe(f"profile {name!r} is not served; served are {', '.join(settings.names())}")
    return settings.entry(name)


def salt(entry: ProfileEntry, given: str | None) -> str:
    """The cache salt of a request under `entry`; the client's own stays part of it."""
    return f"mooring:{entry.digest}:{given or ''}"


def private_tail(hash_blocks: Callable[[Any], list[bytes]] | None) -> Callable[[Any], list[bytes]] | None:
    """A block hasher whose blocks nobody else can name, for the blocks behind a prompt that is hashed already.

    Later hashes chain from these, so one secret per request keeps all of them private; the request itself finds
    them again after a preemption, because its hashes are computed once.
    """
    if hash_blocks is None:
        return None
    secret = secrets.token_bytes(16)

    def hash_privately(request: Any) -> list[bytes]:
        return [hashlib.sha256(secret + block).digest() for block in hash_blocks(request)]

    return hash_privately


def version_fault(found: str, allowed: str | None) -> str | None:
    """What speaks against this version of vLLM; `allowed` is what the operator's ALLOW_VARIABLE says."""
    release = found.split("+")[0]
    if release in (VLLM_VERSION, allowed):
        return None
    return (
        f"vLLM {release} was found, and Mooring is made for {VLLM_VERSION}: install that one\n"
        f"  to try it all the same: `python tests/pins.py {release}` in Mooring's repository lists what has moved, "
        f"then set {ALLOW_VARIABLE}={release} and let `make verify` pass"
    )


def device_fault(capability: tuple[int, int] | None, has_triton: bool) -> str | None:
    """What speaks against a CUDA device."""
    if not has_triton:
        return "Triton is missing, which compiles the capped graph for CUDA: install vLLM's own requirements"
    if capability is None or tuple(capability) < MINIMUM_CAPABILITY:
        found = "unknown" if capability is None else ".".join(map(str, capability))
        wanted = ".".join(map(str, MINIMUM_CAPABILITY))
        return f"its compute capability is {found}, and Triton compiles for {wanted} (Ampere) and newer"
    return None


def refuse_environment() -> None:
    """Refuse a vLLM or a device that Mooring cannot serve with."""
    import vllm
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    if fault := version_fault(vllm.__version__, os.environ.get(ALLOW_VARIABLE)):
        raise CannotServe(fault)
    if not current_platform.is_cuda():
        return
    if fault := device_fault(current_platform.get_device_capability(), HAS_TRITON):
        raise CannotServe(f"Mooring cannot cap on {current_platform.get_device_name()}: {fault}")


def refuse_unsupported(config: Any) -> None:
    """Refuse, by name, what would make the norm's rows other than the batch's rows, or is not proven yet."""
    import vllm.envs as envs

    refuse_environment()
    parallel, cache, model = config.parallel_config, config.cache_config, config.model_config
    architecture = model.architecture
    refused = {
        f"the {model.runner_type} runner (only text generation is capped)": model.runner_type != "generate",
        "micro-batching (leave out --enable-dbo and --ubatch-size)": parallel.use_ubatching,
        "prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "sequence-parallel MoE": parallel.use_sequence_parallel_moe,
        "--kv-sharing-fast-prefill": cache.kv_sharing_fast_prefill,
        "a KV connector (--kv-transfer-config): its blocks are not proven to carry the salt": (
            config.kv_transfer_config is not None
        ),
        "speculative decoding under async scheduling, where the host's positions are guesses "
        "(add --no-async-scheduling)": (
            config.speculative_config is not None and bool(config.scheduler_config.async_scheduling)
        ),
        "speculative decoding on the V2 model runner, which is not proven yet (set VLLM_USE_V2_MODEL_RUNNER=0)": (
            config.speculative_config is not None and config.use_v2_model_runner
        ),
        "a model with recurrent state": model.is_hybrid,
        "an encoder-decoder model": model.is_encoder_decoder,
        "DeepSeek in fp16, which rescales its residual (use --dtype bfloat16)": (
            "Deepseek" in architecture and str(model.dtype) == "torch.float16"
        ),
        "VLLM_BATCH_INVARIANT=1": envs.VLLM_BATCH_INVARIANT,
        "VLLM_USE_RUST_FRONTEND=1: its server has none of Mooring's checks": envs.VLLM_USE_RUST_FRONTEND,
        "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION=1": envs.VLLM_DISABLE_REQUEST_ID_RANDOMIZATION,
    }
    if found := [what for what, there in refused.items() if there]:
        raise CannotServe("Mooring cannot cap with " + "; nor with ".join(found))
