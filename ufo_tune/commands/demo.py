"""Command ``demo``: a web page to try a model with."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ufo_tune.demo import HOST, MAX_PIXELS, PORT, QUEUE

EXAMPLES = "demo quickstart/merged --open\ndemo merged --port 8080 --examples my_pictures --max-pixels 4000000"


def arguments(sub: ArgumentParser) -> None:
    """What the command takes."""
    sub.add_argument("checkpoint", metavar="CKPT", help="run, merged model, or prepared base")
    sub.add_argument("--port", type=int, default=PORT, help="0 takes a free one (%(default)s)")
    sub.add_argument("--host", default=HOST, help="address to listen at; any other lets others in (%(default)s)")
    sub.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="of a picture (%(default)s)")
    sub.add_argument("--queue", type=int, default=QUEUE, help="questions that wait at most (%(default)s)")
    sub.add_argument("--examples", type=Path, help="folder of pictures to pick from (synthetic scenes)")
    sub.add_argument("--open", action="store_true", help="open the page in this machine's browser")


def demo(args: Namespace) -> None:
    """Serve the page until interrupted."""
    from ufo_tune.demo.server import is_loopback, serve

    if not is_loopback(args.host):
        print(
            f"warning: demo: --host {args.host} lets everybody who can reach this machine ask the model and upload "
            "pictures, without a password; leave --host out to keep it to yourself",
            file=sys.stderr,
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads go then, too
    serve(
        args.checkpoint,
        host=args.host,
        port=args.port,
        max_pixels=args.max_pixels,
        queue=args.queue,
        examples=args.examples,
        open_browser=args.open,
        ready=lambda address: print(f"demo: {address}  (Ctrl-C ends it)", flush=True),
    )
