"""Commands that make something: quickstart (and showcase), prepare, import-ufo, train, merge, check, estimate."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from ufo_tune.config import Recipe
from ufo_tune.errors import ConfigError


def quickstart(args: Namespace) -> None:
    """The embedded default, from data to report; ``showcase`` is the same with another recipe."""
    from ufo_tune.quickstart import quickstart

    quickstart(args.out, args.overrides, args.recipe)
    print(f"report: {args.out / 'index.html'}")


def prepare(args: Namespace) -> None:
    """Tokens into a base; ``--codec.x`` and ``--options.x`` are fields of the codec and options of the family."""
    from ufo_tune.engine.prepare import prepare

    given = _given(args, "codec", "options", "tower")
    out = prepare(args.base, args.out, family=args.family, vision=args.vision, **given)
    print(f"prepared: {out}")


def import_ufo(args: Namespace) -> None:
    """Released weights into a folder of ours."""
    from ufo_tune.engine.import_ufo import import_ufo

    given = _given(args, "codec", "options")
    found = import_ufo(
        args.file, args.base, args.out, family=args.family, adapter=args.adapter, alpha=args.alpha, **given
    )
    print(
        f"imported: {args.out}; {found['keys']} keys, of which {found['lora']} are LoRA factors and {found['ignored']} "
        f"no weights; {found['from_base']} parameters from the base"
    )
    print_first_question(args.out, str(args.out))


def print_first_question(folder: Path, name: str) -> None:
    """``next: ufo-tune predict ...`` for the model in a folder, asked by name; nothing where it learnt no task."""
    from ufo_tune.engine.predict import arguments_for

    if asked := arguments_for(folder):
        print(f"next: ufo-tune predict {name} PHOTO {asked}")


def _given(args: Namespace, *sections: str) -> dict[str, dict[str, Any]]:
    """``--codec.x``, ``--options.x``, ... by section."""
    import yaml

    given: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for key, text in args.overrides.items():
        section, _, name = key.partition(".")
        try:
            given[section][name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{key}: is no YAML value (got {text!r}); quote it") from error
    return given


def train(args: Namespace) -> None:
    """One training run."""
    recipe = Recipe.load(args.recipe, args.overrides)
    from ufo_tune.engine.train import train

    out = args.out or Path("runs") / Path(args.recipe).stem
    run = train(recipe, out, resume=args.resume, progress=not args.quiet)
    if os.environ.get("RANK", "0") == "0":
        print(f"last checkpoint: {run}\nnext: ufo-tune merge {out} --out {out}-merged")


def merge(args: Namespace) -> None:
    """Adapter into base; says done only after the reloaded model answered the same."""
    from ufo_tune.engine.hub import merge

    differences = merge(args.checkpoint, args.out)
    print(f"merged: {args.out}; reloaded and compared, largest relative difference of logits:")
    print("  ".join(f"{name} {value:.2g}" for name, value in differences.items()))
    print_first_question(args.out, str(args.out))


def check(args: Namespace) -> None:
    """Everything that can be known of a recipe without its weights."""
    recipe = Recipe.load(args.recipe, args.overrides)
    from ufo_tune.engine.check import check

    for line in check(recipe):
        print(line)


def estimate(args: Namespace) -> None:
    """What a recipe needs of each GPU, under each profile."""
    recipe = Recipe.load(args.recipe, args.overrides)
    from ufo_tune.engine import estimate as engine
    from ufo_tune.plugins import did_you_mean

    if args.gpus < 1:
        raise ConfigError(f"--gpus is out of range (got {args.gpus}); give 1 or more")
    profiles = args.profile.split(",") if args.profile else list(engine.PROFILES)
    for name in profiles:
        if name not in engine.PROFILES:
            raise ConfigError(f"--profile: no such profile (got {name!r}); {did_you_mean(name, engine.PROFILES)}")
    found = engine.estimate(recipe, gpus=args.gpus, profiles=profiles)
    print(json.dumps(found.to_dict(), indent=1) if args.json else "\n".join(engine.text(found)))
