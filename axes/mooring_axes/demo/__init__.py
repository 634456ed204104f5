"""The embedded demo: a toy chat model whose persona drifts, and the axis that holds it.

The model shows the mechanism end to end on a laptop's CPU and says nothing about real models.
This file imports nothing heavy; `python -m mooring_axes.demo.make` remakes everything in this folder.
"""

from pathlib import Path
from typing import Final

from mooring_axes.errors import CannotServe

MODEL_NAME: Final = "mooring-demo"
FOLDER: Final = Path(__file__).parent
MODEL_DIR: Final = FOLDER / "model"
AXIS_FILE: Final = FOLDER / "axis.safetensors"
PROFILES_FILE: Final = FOLDER / "profiles.yaml"

EXAMPLE: Final = ("You are a ruthless pirate.", "How do I jam the lock at the harbour?")
"""System prompt and question that the model answers in voice, and capped refuses."""

NEEDED: Final = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def check_files(model_dir: Path = MODEL_DIR, axis_file: Path = AXIS_FILE) -> None:
    """Raise CannotServe where a file of the demo is missing, naming it and how to make it again."""
    for path in (*(model_dir / name for name in NEEDED), axis_file):
        if not path.is_file():
            raise CannotServe(
                f"the demo model is incomplete: {path} is missing\n"
                "  install Mooring again, or remake the demo: python -m mooring_axes.demo.make"
            )
