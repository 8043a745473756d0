"""A web page with a person in front of it: pick a picture, ask, and see boxes and masks.

    from ufo_tune.demo.server import serve
    serve("quickstart/merged")  # http://127.0.0.1:7860

``asking`` knows the model and no page, ``panel`` makes HTML of an answer, ``page`` is what gradio shows, ``server`` the
rest. gradio is the extra ``demo``, and is imported by the last two only.
"""

from __future__ import annotations

HOST, PORT = "127.0.0.1", 7860
MAX_PIXELS = 25_000_000
"""Of a picture, unless told otherwise: more than a photograph of most cameras has."""
QUEUE = 16
"""Questions that wait, unless told otherwise."""
