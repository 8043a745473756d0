"""``python -m ufo_tune`` is ``ufo-tune`` (what ``accelerate launch -m ufo_tune`` starts)."""

from ufo_tune.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
