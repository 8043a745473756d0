"""A Hugging Face Space that shows a model: the demo of ufo-tune, listening where the Space's proxy looks.

The model is the Space's variable ``MODEL``: a repository of the Hub (private ones need the secret ``HF_TOKEN``) or a
folder beside this file. Pictures to pick from may lie in ``examples/``.
"""

from __future__ import annotations

import os
from pathlib import Path

from ufo_tune.demo.server import serve

HERE = Path(__file__).parent

if __name__ == "__main__":
    model = os.environ.get("MODEL", "ORG/MODEL")
    examples = HERE / "examples"
    serve(
        HERE / model if (HERE / model).is_dir() else model,
        host="0.0.0.0",
        port=int(os.environ.get("PORT", "7860")),
        max_pixels=int(os.environ.get("MAX_PIXELS", "12000000")),
        queue=int(os.environ.get("QUEUE", "16")),
        examples=examples if examples.is_dir() else None,
        title=model,
    )
