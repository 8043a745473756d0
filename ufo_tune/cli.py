"""The command line: arguments and exit codes (0 done, 1 our fault, 2 the user's input, 130 interrupted).

Nothing heavy is imported here, so that ``--help`` answers at once; each command lives in ``ufo_tune/commands/``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ufo_tune import __version__
from ufo_tune.commands import demo, publish
from ufo_tune.errors import ConfigError, UfoTuneError

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[Any]

_DESCRIPTION = "Teach a vision-language model to point: boxes, masks and parallel detections as answers."
_START = """\
start here:
  ufo-tune quickstart                         the embedded model learns to point; writes quickstart/index.html
  ufo-tune showcase                           the same with every task: label maps, depth and captions too
  ufo-tune recipes ls                         what can be trained
  ufo-tune check RECIPE                       resolve every name and open the data, before anything is spent
  ufo-tune train RECIPE --train.max_steps 500
  ufo-tune eval RUN --suite PROTOCOL          then score it,
  ufo-tune merge RUN --out DIR                fold the adapter in,
  ufo-tune predict DIR photo.jpg --task rec --text "the red ball"
  ufo-tune publish DIR ORG/NAME --dry-run     and see what its page would be

every command explains itself: ufo-tune COMMAND --help
"""
_OVERRIDES = "\n\nany key of the recipe can be overridden:\n  --train.learning_rate 1e-4 --data.mixture.0.weight 2"


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if hasattr(sys.stdout, "reconfigure"):  # names of files that the terminal cannot show are no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args, rest = build_parser().parse_known_args(arguments)
        args.overrides = parse_overrides(rest, args.free)
        module, function = args.run.split(":")
        code: int = getattr(importlib.import_module(f"ufo_tune.commands.{module}"), function)(args) or 0
        sys.stdout.flush()  # so that a closed pipe is met here and not after the end
        return code
    except UfoTuneError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; a training run goes on with --resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ufo-tune recipes ls | head`: the reader had enough
        sys.stdout = None  # type: ignore[assignment]
        return 0


def parse_overrides(rest: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """``["--a.b", "1", "--c.d=2"]`` as ``{"a.b": "1", "c.d": "2"}``.

    Args:
        rest: what the parser did not know.
        allowed: first parts that may be overridden; empty: the command takes none.

    Raises:
        ConfigError: not a dotted key, not one of ``allowed``, or a key without a value.
    """
    overrides: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key.split(".")[0] not in allowed:
            dotted = f", or a key of --{', --'.join(f'{a}.KEY' for a in allowed)}" if allowed else ""
            raise ConfigError(f"command line: no such argument (got {word!r}); see --help{dotted}")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"command line: --{key} has no value; write --{key} VALUE")
        overrides[key] = value
    return overrides


def build_parser() -> argparse.ArgumentParser:
    """All commands, their arguments and examples."""
    parser = _Parser("ufo-tune", description=_DESCRIPTION, epilog=_START, formatter_class=_formatter)
    parser.add_argument("--version", action="version", version=f"ufo-tune {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_starts(commands)
    _add_work(commands)
    _add_use(commands)
    group = _group(commands, "data", "list datasets; convert, check, count and look at data")
    _add_data(group)
    _add_looks(group)
    _add_lists(commands)
    return parser


_SECTIONS = ("model", "tasks", "data", "objectives", "train", "eval")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=118)


def _command(
    commands: _Commands, name: str, run: str, help: str, examples: str = "", free: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """One command; ``free`` are the sections that ``--section.key value`` may override."""
    epilog = "examples:\n" + "\n".join(f"  ufo-tune {line}" for line in examples.splitlines()) if examples else ""
    epilog += _OVERRIDES if free == _SECTIONS else ""
    sub = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + ".", epilog=epilog, formatter_class=_formatter
    )
    sub.set_defaults(run=run, free=free)
    return sub


def _add_starts(commands: _Commands) -> None:
    for name, what in (
        ("quickstart", "teach the embedded model to point and write a report"),
        ("showcase", "teach the embedded model every task, label maps, depth and captions too, and write a report"),
    ):
        examples = f"{name}\n{name} --out longer --train.max_seconds 2000"
        sub = _command(commands, name, "work:quickstart", what, examples, free=_SECTIONS)
        sub.add_argument("--out", type=Path, default=Path(name), help="folder of the report (%(default)s)")
        sub.set_defaults(recipe=name)

    sub = _command(
        commands,
        "prepare",
        "work:prepare",
        "add and initialise the tokens of a base model, on CPU, before any distributed start",
        "prepare llava-hf/llava-1.5-7b-hf --out base\nprepare tiny:llava --out base --codec.num_bins 100\n"
        "prepare HuggingFaceTB/SmolLM2-135M-Instruct --vision openai/clip-vit-base-patch16 --out base\n"
        "prepare smollm2.gguf --vision random --tower.image_size 192 --out base",
        free=("codec", "options", "tower"),
    )
    sub.add_argument("base", metavar="BASE", help="Hub id, folder, or tiny:FAMILY (random, from config, no download)")
    sub.add_argument(
        "--vision",
        default="",
        metavar="TOWER",
        help="make a LLaVA of BASE, a causal language model or GGUF file, and this CLIP or SigLIP; `random`: a new one",
    )
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--family", default="llava", help="file of ufo_tune/models/ (%(default)s)")

    sub = _command(
        commands,
        "import-ufo",
        "work:import_ufo",
        "turn weights that UFO released into a Hugging Face folder, or into an adapter",
        "import-ufo ufo-llava-1.5-7b-res.pth --base llava-hf/llava-1.5-7b-hf --out ufo_res\n"
        "import-ufo ufo-internvl2_5-8b-multi-896 --base INTERNVL_HF --family internvl --options.tiles 2x2 "
        "--codec.num_bins 1792 --out ufo_multi",
        free=("codec", "options"),
    )
    sub.add_argument("file", metavar="FILE", type=Path, help="file, or folder of shards; only tensors are read")
    sub.add_argument("--base", required=True, help="Hub id or folder of the Hugging Face model that UFO started from")
    sub.add_argument("--family", default="llava", help="llava or internvl (%(default)s)")
    sub.add_argument("--adapter", action="store_true", help="keep LoRA apart, as a PEFT adapter on OUT/base")
    sub.add_argument("--alpha", type=float, default=16, help="of LoRA, which the files do not tell (%(default)s)")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")


def _add_work(commands: _Commands) -> None:
    sub = _command(
        commands,
        "train",
        "work:train",
        "run a recipe",
        "train quickstart\ntrain my.yaml --out runs/my --train.max_steps 500 --model.lora.r=16\n"
        "train my.yaml --out runs/my --resume",
        free=_SECTIONS,
    )
    _recipe(sub)
    sub.add_argument("--out", type=Path, help="folder of the run (runs/RECIPE)")
    sub.add_argument("--resume", action="store_true", help="go on from the run's last complete checkpoint")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub = _command(
        commands, "merge", "work:merge", "fold a run's adapter into its base, reload and compare before it says done"
    )
    sub.add_argument("checkpoint", metavar="RUN", type=Path, help="folder that `ufo-tune train` wrote")
    sub.add_argument("--out", type=Path, required=True, help="folder of the merged model")

    sub = _command(
        commands,
        "check",
        "work:check",
        "resolve every name of a recipe, open its data, render questions, estimate memory; touches no weights",
        "check quickstart\ncheck my.yaml --data.mixture.0.root pictures",
        free=_SECTIONS,
    )
    _recipe(sub)

    sub = _command(
        commands,
        "estimate",
        "work:estimate",
        "count what a recipe needs on each GPU, before anything is spent: memory by part, tokens and operations of a "
        "step, the KV cache of its evaluation; reads the base's config and a few samples, no weights, and needs no GPU",
        "estimate quickstart\nestimate my.yaml --gpus 8 --profile zero2,zero3\n"
        "estimate my.yaml --gpus 1 --model.quantization nf4 --train.gradient_checkpointing true --json",
        free=_SECTIONS,
    )
    _recipe(sub)
    sub.add_argument("--gpus", type=int, default=8, help="that share the work, one process each (%(default)s)")
    sub.add_argument(
        "--profile", default="", help="of recipes/accelerate/, by comma: ddp, zero1, zero2, zero3, ... (all)"
    )
    _json(sub)


def _add_use(commands: _Commands) -> None:
    sub = _command(
        commands,
        "eval",
        "use:evaluate",
        "score a checkpoint by generation, with metrics.json, predictions.jsonl and report.html; or compare two scores",
        "eval runs/my --suite scenes_rec\neval merged --suite scenes_rec:test,scenes_res --limit 100 --json\n"
        "eval --compare runs/a/eval runs/b/eval           is B better than A, or was it luck?",
    )
    sub.add_argument("checkpoint", metavar="CKPT", nargs="?", help="run, merged model, or prepared base")
    sub.add_argument("--suite", help="protocols of eval/, by comma; NAME:SPLIT for one split of it")
    sub.add_argument("--limit", type=int, default=0, help="samples of each split (all)")
    sub.add_argument("--out", type=Path, help="folder (CKPT/eval; eval_NAME for ORG/NAME; none for --compare)")
    sub.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="instead: two folders of finished evaluations of the same samples; B minus A, with a paired bootstrap",
    )
    sub.add_argument("--resamples", type=int, default=0, help="of --compare (1000; fewer where that takes minutes)")
    _json(sub)

    sub = _command(
        commands,
        "predict",
        "use:predict",
        "answer one question about pictures; writes JSON and overlays",
        'predict merged photo.jpg --task rec --text "the red ball"\n'
        "predict merged *.png --task detection --classes cup,plate --out seen --json",
    )
    sub.add_argument("checkpoint", metavar="CKPT", help="run, merged model, or prepared base")
    sub.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="JPEG or PNG of any size and mode")
    sub.add_argument("--task", required=True, help="rec, res, detection, instance_segmentation, vqa, ...")
    sub.add_argument("--text", default="", help="the phrase (rec, res) or the question (vqa, conversation)")
    sub.add_argument("--classes", default="", help="names to look for, by comma (grid tasks)")
    sub.add_argument("--tile", type=int, default=0, help="ask about tiles of so many pixels and join them (whole; res)")
    sub.add_argument("--out", type=Path, default=Path("predictions"), help="folder for the files (%(default)s)")
    _json(sub)

    what = "show a web page on this machine: pick a picture, ask, see boxes, masks and what each mask token sees"
    demo.arguments(_command(commands, "demo", "demo:demo", what, demo.EXAMPLES))

    what = "upload a merged model to the Hugging Face Hub, with a model card written from its recipe and scores"
    publish.arguments(_command(commands, "publish", "publish:publish", what, publish.EXAMPLES))


def _add_data(group: _Commands) -> None:
    _json(_command(group, "ls", "lists:datasets", "list the datasets and the tasks they serve"))
    sub = _command(
        group,
        "convert",
        "data:convert",
        "write any dataset as JSONL of your own data",
        "data convert coco /data/coco val2017 --task instance_segmentation --out my/val.jsonl\n"
        "data convert coco my_yolo train --task detection --option layout=yolo --out my/train.jsonl\n"
        "data convert refcoco /data/refer_seg val --task res --out my/val.jsonl\n"
        "data convert label_folder my train --task instance_segmentation --from-labels components --out my/train.jsonl",
    )
    sub.add_argument("dataset", metavar="DATASET", help="a name that `ufo-tune data ls` prints")
    sub.add_argument("root", metavar="ROOT", help="folder of the dataset; the dataset's docstring shows its tree")
    sub.add_argument("split", metavar="SPLIT", help="train, val2017, ...")
    sub.add_argument("--task", required=True, help="rec, res, detection, instance_segmentation, vqa, ...")
    sub.add_argument("--out", type=Path, required=True, help="JSONL to write; must not exist")
    _options(sub)
    sub.add_argument("--from-labels", choices=("classes", "components"), help="instances out of label maps")
    sub.add_argument("--limit", type=int, default=0, help="the first so many samples (all)")
    sub.add_argument("--skip-bad", action="store_true", help="leave out samples with faults, and count them")

    sub = _command(
        group,
        "audit",
        "data:audit",
        "find evaluation images in training data, by name and by look",
        "data audit my.jsonl --against coco128_boxes\ndata audit my_recipe.yaml --against scenes_rec:val,coco128_masks",
    )
    sub.add_argument("what", metavar="FILE_OR_RECIPE", help="JSONL of your own data; or a recipe, for all its entries")
    sub.add_argument("--against", required=True, metavar="SUITE", help="protocols of eval/, by comma; NAME:SPLIT")
    sub.add_argument("--image-root", default="", help="folder of the JSONL's images (its own)")
    sub.add_argument("--bits", type=int, default=6, help="of 64 that looks of one picture may differ in (%(default)s)")
    _json(sub)


def _add_looks(group: _Commands) -> None:
    """What takes a JSONL file, or any dataset."""
    sub = _command(
        group,
        "validate",
        "data:validate",
        "list every fault of your JSONL by line, or of any dataset",
        "data validate my.jsonl\ndata validate my.jsonl --fix-skip clean.jsonl\n"
        "data validate coco /data/coco val2017 --task detection",
    )
    _data(sub)
    sub.add_argument("--fix-skip", type=Path, metavar="OUT", help="write a copy of FILE without its bad rows")

    sub = _command(
        group,
        "show",
        "data:show",
        "draw samples with their truth",
        "data show my.jsonl --out seen --limit 8\ndata show lvis /data/lvis val --task detection --out seen",
    )
    _data(sub)
    sub.add_argument("--out", type=Path, default=Path("shown"), help="folder for the pictures (%(default)s)")
    sub.add_argument("--limit", type=int, default=16, help="samples of each task at most (%(default)s)")

    sub = _command(
        group,
        "stats",
        "data:stats",
        "count samples, images, objects, areas, classes and words",
        "data stats my.jsonl --out seen\ndata stats refcoco /data/refer_seg val --task rec --json",
    )
    _data(sub)
    sub.add_argument("--out", type=Path, help="folder for a chart of each task, stats_TASK.png (none)")
    _json(sub)


def _add_lists(commands: _Commands) -> None:
    for kind, what in (("recipes", "training runs"), ("templates", "wordings of questions and answers")):
        group = _group(commands, kind, f"list, show or copy the {what} that ship with ufo-tune")
        _json(_command(group, "ls", f"lists:{kind}", f"list the {what}"))
        sub = _command(group, "show", "lists:show", "print one as YAML", f"{kind} show NAME")
        sub.add_argument("name", metavar="NAME", help="a name that `ls` prints, or a YAML file")
        sub = _command(
            group, "copy", "lists:copy", "write one to a file of your own, to edit", f"{kind} copy NAME my.yaml"
        )
        sub.add_argument("name", metavar="NAME", help="a name that `ls` prints")
        sub.add_argument("file", metavar="FILE", type=Path, nargs="?", help="file to write (./NAME.yaml)")
        if kind == "recipes":
            sub = _command(
                group,
                "check",
                "lists:check",
                "resolve every name in recipes; neither weights nor data are opened (`ufo-tune check` does)",
                "recipes check --all\nrecipes check internvl3_8b_lora",
            )
            sub.add_argument("names", metavar="RECIPE", nargs="*", help="names that `ls` prints, or YAML files")
            sub.add_argument("--all", action="store_true", help="all that ship with ufo-tune")
        for sub in group.choices.values():
            sub.set_defaults(kind={"recipes": "recipes", "templates": "data_templates"}[kind])

    _json(_command(commands, "env", "lists:env", "print versions and devices, for a bug report"))


def _group(commands: _Commands, name: str, help: str) -> _Commands:
    sub = _command(commands, name, "", help)
    return sub.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)


def _recipe(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", metavar="RECIPE", help="a name that `ufo-tune recipes ls` prints, or a YAML file")


def _data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "data", metavar="DATA", nargs="+", help="FILE: JSONL of your own data; or three words: DATASET ROOT SPLIT"
    )
    sub.add_argument("--task", default="", help="only this one of the file's tasks; a dataset needs it")
    sub.add_argument("--classes", default="", help="class names by comma, for rows of the file that have none")
    sub.add_argument("--image-root", default="", help="folder of the file's images (its own)")
    _options(sub)


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the dataset, such as layout=yolo; repeat"
    )


def _json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON for programs")
