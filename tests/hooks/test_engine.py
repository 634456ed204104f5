"""Admission, salts and refusals, without an engine."""

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from mooring_axes.errors import CannotServe
from mooring_hooks.engine import (
    PROFILE_KEY,
    TOKENS_KEY,
    TRUST,
    TRUST_KEY,
    admit,
    private_tail,
    profile_of,
    refuse_unsupported,
    salt,
)
from mooring_hooks.frames import READING_KEY
from mooring_hooks.table import ProfileEntry, Settings

SETTINGS = Settings(
    "t", "strong", 16,
    (ProfileEntry("off", "", "all", True), ProfileEntry("strong", "d", "all", True),
     ProfileEntry("hidden", "h", "all", False)),
)  # fmt: skip


@pytest.mark.parametrize("extra", [{}, {PROFILE_KEY: "off"}, {PROFILE_KEY: "strong"}, {"other": 1}])
def test_what_may_be_chosen_is_admitted(extra: dict[str, Any]) -> None:
    admit(SETTINGS, extra)


@pytest.mark.parametrize("name", ["nope", "hidden", "", 1, ["off"], None, "OFF", "off "])
def test_what_may_not_be_chosen_is_refused_with_the_choices(name: object) -> None:
    with pytest.raises(VLLMValidationError, match="choose one of off, strong"):
        admit(SETTINGS, {PROFILE_KEY: name})


@pytest.mark.parametrize(
    "key", ["mooring_profiles", "mooring.nonce", "mooring", "mooring_token", TRUST_KEY, READING_KEY]
)
def test_a_key_of_ours_that_we_do_not_know_is_refused_and_not_ignored(key: str) -> None:
    with pytest.raises(VLLMValidationError, match="there are 'mooring_profile' and 'mooring_tokens'"):
        admit(SETTINGS, {key: "off"})


@pytest.mark.parametrize("value", ["off", [], ["off", "ipc:///tmp/x", "", 1, 1], ["", "", "", 0, 1], {"a": 1}])
def test_a_ticket_of_a_clients_own_is_refused(value: object) -> None:
    with pytest.raises(VLLMValidationError, match="'mooring.reading' is not a parameter"):
        admit(SETTINGS, {READING_KEY: value})


@pytest.mark.parametrize("value", [2, -1, "yes", "true", [1], None])
def test_tokens_are_asked_for_by_true_or_false(value: object) -> None:
    with pytest.raises(VLLMValidationError, match="it is true or false"):
        admit(SETTINGS, {TOKENS_KEY: value})


def test_the_servers_own_ticket_is_admitted_and_does_not_skip_the_profile() -> None:
    ticket = {READING_KEY: [TRUST, "ipc:///tmp/x", "", 1, 1]}
    admit(SETTINGS, ticket | {PROFILE_KEY: "off", TOKENS_KEY: 1})
    with pytest.raises(VLLMValidationError, match="choose one of off, strong"):
        admit(SETTINGS, ticket | {PROFILE_KEY: "hidden"})


def test_the_self_test_may_ask_for_any_profile() -> None:
    admit(SETTINGS, {PROFILE_KEY: "hidden", TRUST_KEY: TRUST})


def test_a_name_that_slipped_through_is_refused_and_never_replaced() -> None:
    with pytest.raises(CannotServe, match="'nope' is not served"):
        profile_of(SETTINGS, SimpleNamespace(extra_args={PROFILE_KEY: "nope"}))
    assert profile_of(SETTINGS, SimpleNamespace(extra_args=None)).name == "strong"


def test_the_salt_holds_the_digest_and_the_users_own() -> None:
    assert salt(SETTINGS.entry("strong"), "ann") == "mooring:d:ann"
    assert salt(SETTINGS.entry("strong"), None) != salt(SETTINGS.entry("strong"), "x")


def test_private_hashes_differ_between_requests_and_not_within_one() -> None:
    def plain(request: Any) -> list[bytes]:
        return [hashlib.sha256(b"block").digest()]

    one, other = private_tail(plain), private_tail(plain)
    assert one is not None and other is not None
    assert one(None) == one(None) != other(None)
    assert private_tail(None) is None


def supported() -> Any:
    parallel = SimpleNamespace(
        use_ubatching=False, prefill_context_parallel_size=1, decode_context_parallel_size=1,
        use_sequence_parallel_moe=False,
    )  # fmt: skip
    model = SimpleNamespace(
        architecture="Qwen3ForCausalLM", runner_type="generate", is_hybrid=False, is_encoder_decoder=False,
        dtype="torch.bfloat16",
    )  # fmt: skip
    return SimpleNamespace(
        parallel_config=parallel,
        model_config=model,
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        kv_transfer_config=None,
        speculative_config=None,
        scheduler_config=SimpleNamespace(async_scheduling=True),
        use_v2_model_runner=False,
    )


def change(config: Any, path: str, value: object) -> None:
    owner, _, name = path.rpartition(".")
    setattr(getattr(config, owner) if owner else config, name, value)


def test_a_plain_configuration_is_served() -> None:
    refuse_unsupported(supported())


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("parallel_config.use_ubatching", True, "micro-batching"),
        ("parallel_config.prefill_context_parallel_size", 2, "prefill context parallelism"),
        ("parallel_config.use_sequence_parallel_moe", True, "sequence-parallel MoE"),
        ("cache_config.kv_sharing_fast_prefill", True, "kv-sharing-fast-prefill"),
        ("kv_transfer_config", object(), "KV connector"),
        ("speculative_config", object(), "speculative decoding under async scheduling"),
        ("parallel_config.decode_context_parallel_size", 2, "decode context parallelism"),
        ("model_config.runner_type", "pooling", "pooling runner"),
        ("model_config.is_hybrid", True, "recurrent state"),
        ("model_config.is_encoder_decoder", True, "encoder-decoder"),
    ],
)
def test_a_mode_whose_rows_are_not_the_batchs_is_refused_by_name(path: str, value: object, named: str) -> None:
    config = supported()
    change(config, path, value)
    with pytest.raises(CannotServe, match=named):
        refuse_unsupported(config)


def test_drafts_are_served_by_v1_alone_and_without_async_scheduling() -> None:
    config = supported()
    config.speculative_config, config.scheduler_config.async_scheduling = object(), False
    refuse_unsupported(config)
    config.use_v2_model_runner = True
    with pytest.raises(CannotServe, match="speculative decoding on the V2 model runner(.|\n)*RUNNER=0"):
        refuse_unsupported(config)


def test_deepseek_in_fp16_is_refused() -> None:
    config = supported()
    change(config, "model_config.architecture", "DeepseekV3ForCausalLM")
    change(config, "model_config.dtype", "torch.float16")
    with pytest.raises(CannotServe, match="DeepSeek in fp16"):
        refuse_unsupported(config)


@pytest.mark.parametrize(
    "variable", ["VLLM_BATCH_INVARIANT", "VLLM_USE_RUST_FRONTEND", "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION"]
)
def test_an_environment_that_is_not_proven_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(CannotServe, match=variable):
        refuse_unsupported(supported())


def test_another_vllm_is_refused_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.__version__", "0.33.0+cu130")
    with pytest.raises(CannotServe, match="vLLM 0.33.0 was found, and Mooring is made for 0.32.0"):
        refuse_unsupported(supported())
    monkeypatch.setenv("MOORING_ALLOW_VLLM", "0.33.0")
    refuse_unsupported(supported())


def cuda(capability: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch, triton: bool = True) -> None:
    platform = SimpleNamespace(
        is_cuda=lambda: True, get_device_capability=lambda: capability, get_device_name=lambda: "a GPU"
    )
    monkeypatch.setattr("vllm.platforms.current_platform", platform)
    monkeypatch.setattr("vllm.triton_utils.HAS_TRITON", triton)


@pytest.mark.parametrize(
    ("capability", "triton", "named"),
    [
        ((9, 0), False, "a GPU: Triton is missing"),
        ((7, 5), True, "a GPU: its compute capability is 7.5, and Triton compiles for 8.0"),
        (None, True, "its compute capability is unknown"),
    ],
)
def test_a_device_that_the_capped_graph_cannot_be_compiled_for_is_refused(
    capability: Any, triton: bool, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda(capability, monkeypatch, triton)
    with pytest.raises(CannotServe, match=named):
        refuse_unsupported(supported())


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0)])
def test_newer_devices_are_served(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(capability, monkeypatch)
    refuse_unsupported(supported())


def test_vllms_compile_cache_key_follows_the_table() -> None:
    """With the ahead-of-time cache, a graph compiled without the cap would otherwise be loaded for a capped start."""
    from vllm.config import VllmConfig

    tables = [{}, {"mooring": {"table": "a"}}, {"mooring": {"table": "b"}}]
    assert len({VllmConfig(additional_config=config).compute_hash() for config in tables}) == 3
