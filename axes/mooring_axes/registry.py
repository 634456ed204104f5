"""Known models: where their published axis lies, what its bytes must be, and the cap that goes with it.

The files are those of the paper's authors (arXiv:2601.10387), on the Hugging Face hub as the dataset
`lu-christina/assistant-axis-vectors`, always at one commit. Where the sha256 of a file is known it is checked
before the file is read; where it is not, the record says None and so does the axis' provenance. No weights are
fetched, and nothing in the files is run (convert.py).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mooring_axes.artifact import Axis
from mooring_axes.errors import CannotServe

REPO: Final = "lu-christina/assistant-axis-vectors"
REVISION: Final = "9216db5781bf21249d130ec9da846c4624c16137"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model whose axis is published."""

    name: str
    """What a profile's `axis` calls it."""
    model: str
    """Id of the model on the hub."""
    files: Mapping[str, str | None] = field(hash=False)
    """Path in the dataset -> sha256, None where it is not known."""
    n_layers: int
    """Decoder layers the axis must have."""
    hidden_size: int
    """Width the axis must have."""
    monitored_layer: int
    """0-based layer at which the paper reads drift."""
    recommended: str | None
    """The published cap to use, an experiment of the capping config; None where no cap is published."""
    note: str = ""
    """What whoever serves the model should know."""
    repo: str = REPO
    """The dataset on the hub."""
    revision: str = REVISION
    """Commit of the dataset."""


def _files(folder: str, **sha256: str | None) -> Mapping[str, str | None]:
    return MappingProxyType({f"{folder}/{stem}.pt": digest for stem, digest in sha256.items()})


_KNOWN: Final = (
    KnownModel(
        name="qwen3-32b/assistant",
        model="Qwen/Qwen3-32B",
        files=_files(
            "qwen-3-32b",
            assistant_axis="a207fe7a36563280b7b29010880aa0082bd8e3113c141cb4a2eed6b46c140211",
            default_vector=None,
            capping_config="6aec1220487473aaeab80b05d5d960ac54b5dd9080b51ac4bb0bbd1f4330db24",
        ),
        n_layers=64,
        hidden_size=5120,
        monitored_layer=32,
        recommended="layers_46:54-p0.25",
        note="axis and caps were measured with thinking mode off",
    ),
    KnownModel(
        name="llama-3.3-70b/assistant",
        model="meta-llama/Llama-3.3-70B-Instruct",
        files=_files("llama-3.3-70b", assistant_axis=None, default_vector=None, capping_config=None),
        n_layers=80,
        hidden_size=8192,
        monitored_layer=40,
        recommended="layers_56:72-p0.25",
    ),
    KnownModel(
        name="gemma-2-27b/assistant",
        model="google/gemma-2-27b-it",
        files=_files("gemma-2-27b", assistant_axis=None, default_vector=None),
        n_layers=46,
        hidden_size=4608,
        monitored_layer=22,
        recommended=None,
        note="no cap is published for this model: answers are measured, and capped only by a profile of your own",
    ),
)


def names() -> list[str]:
    """Names of the published axes."""
    return [known.name for known in _KNOWN]


def find(model: str) -> KnownModel | None:
    """The published axis of a model id, or of a name from `names()`."""
    return next((known for known in _KNOWN if model in (known.model, known.name)), None)


def fetch(known: KnownModel, cache_dir: str | Path | None = None) -> Axis:
    """Download the files of a published axis (the hub's own cache keeps them), check them and convert them."""
    from mooring_axes.convert import from_assistant_axis  # torch: seconds that a command without an axis need not wait

    local = {path: _download(known, path, cache_dir) for path in known.files}
    for path, file in local.items():
        _check_sha256(known, path, file)
    at = {Path(path).name: file for path, file in local.items()}
    axis = from_assistant_axis(
        at["assistant_axis.pt"],
        model=known.model,
        monitored_layer=known.monitored_layer,
        capping_config=at.get("capping_config.pt"),
        default_vector=at.get("default_vector.pt"),
        recommended=known.recommended,
        provenance={"dataset": f"{known.repo}@{known.revision}", "pinned": _pinned(known)},
    )
    axis.check_model(known.model, known.hidden_size, known.n_layers)
    return axis


def _download(known: KnownModel, path: str, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(known.repo, path, repo_type="dataset", revision=known.revision, cache_dir=cache_dir)
        )
    except Exception as error:  # the hub raises by its HTTP client's classes, which change; none of them is a file
        raise CannotServe(
            f"the axis of {known.model} could not be fetched: "
            f"{str(error).strip().partition(chr(10))[0] or type(error).__name__}\n"
            f"  wanted from the dataset {known.repo} on huggingface.co, revision {known.revision}:\n"
            f"    {', '.join(known.files)}\n"
            "  without a network, convert a copy of these files with `mooring axes` and serve it with --axis FILE"
        ) from None


def _check_sha256(known: KnownModel, path: str, file: Path) -> None:
    wanted = known.files[path]
    if wanted is None or (found := hashlib.sha256(file.read_bytes()).hexdigest()) == wanted:
        return
    raise CannotServe(
        f"{path} of {known.repo} has sha256 {found}, wanted {wanted}\n"
        f"  it is not the published file and was not read: delete {file} and fetch it again"
    )


def _pinned(known: KnownModel) -> str:
    """Which files were checked against a known sha256, and which were not."""
    pinned = [Path(path).name for path, sha256 in known.files.items() if sha256]
    loose = [Path(path).name for path, sha256 in known.files.items() if not sha256]
    parts = [f"sha256 pinned: {', '.join(pinned)}"] if pinned else []
    return "; ".join(parts + ([f"sha256 not pinned: {', '.join(loose)}"] if loose else []))
