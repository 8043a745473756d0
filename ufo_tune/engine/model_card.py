"""The model card: README.md of a published model, written from its ``ufo_config.json`` and its evaluations.

Nothing in it is invented: what is not known is called unknown.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ufo_tune import plugins, templates
from ufo_tune.core.codec import Codec
from ufo_tune.engine import remote
from ufo_tune.engine.scored import Scored

_TERMS = re.compile(r"licen[cs]e|\bCC[ 0]|\bterms\b|free of charge|for research", re.IGNORECASE)
_UNKNOWN = "not known to ufo-tune"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is written from.

    Attributes:
        repo: ``ORG/NAME``.
        settings: the model's ``ufo_config.json``.
        scored: its evaluations.
        overlaps: rows of ``ufo-tune data audit --json``, of all audits that were made.
        pictures: file name in the repository -> caption.
        texts: names of the licence texts that go along.
    """

    repo: str
    settings: Mapping[str, Any]
    scored: Sequence[Scored] = ()
    overlaps: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, str] | None = None
    texts: Sequence[str] = ()

    @property
    def origin(self) -> Mapping[str, Any]:
        """The base and its licence."""
        return self.settings.get("origin") or {}

    @property
    def trained(self) -> Mapping[str, Any]:
        """Tasks, recipe, time and versions; empty for a model merged by an older ufo-tune."""
        return self.settings.get("trained") or {}

    @property
    def recipe(self) -> Mapping[str, Any]:
        """As it was run."""
        return self.trained.get("recipe") or {}

    @property
    def tasks(self) -> list[str]:
        """What it was taught, the first one first."""
        return list(self.trained.get("tasks") or sorted(self.settings["templates"]))


def write(facts: Facts) -> str:
    """The whole card, metadata first."""
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {facts.repo.partition('/')[2]}",
        _about(facts),
        "## Use",
        _use(facts),
        "## How it points",
        _pointing(facts),
        "## Training",
        _training(facts),
        "## Scores",
        _scores(facts),
        "## Pictures of evaluation that training saw",
        _overlap(facts),
        *_pictures(facts),
        "## Limits",
        _limits(facts),
        "## Licence",
        _licence(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: Facts) -> ModelCardData:
    bases = str(facts.origin.get("base", "")).split(" + ")
    origin = {"license": "licence", "license_name": "licence_name", "license_link": "licence_link"}
    known = {theirs: facts.origin[ours] for theirs, ours in origin.items() if facts.origin.get(ours)}
    results = [result for scored in facts.scored for result in scored.eval_results()]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=(bases[0] if len(bases) == 1 else bases) if all(map(remote.is_repo, bases)) else None,
        tags=["ufo-tune", *facts.tasks],
        model_name=facts.repo.partition("/")[2],
        eval_results=results or None,
        **known,
    )


def _about(facts: Facts) -> str:
    base, said = facts.origin.get("base", ""), facts.recipe.get("description", "")
    made = f"`{base}`" if base else f"a base that is {_UNKNOWN}"
    return f"{made}, taught {', '.join(facts.tasks)} by ufo-tune." + (f" Recipe: {said}." if said else "")


def _use(facts: Facts) -> str:
    task = facts.tasks[0] if facts.tasks else "rec"
    template = templates.load(facts.settings["templates"].get(task) or plugins.find("tasks", task).TEMPLATE)
    given = ', text="the red ball"' if template.asks("phrase") or template.asks("question") else ""
    given += ', classes=["cup", "plate"]' if template.asks("classes") else ""
    return f"""To point, with `pip install ufo-tune`:

```python
import ufo_tune

model = ufo_tune.load("{facts.repo}")
result = model.predict("photo.jpg", "{task}"{given})
print(result.boxes, result.masks, result.text)  # xyxy and [N, H, W] in pixels of the photo
```

To talk, with transformers alone:

```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{facts.repo}")
model = AutoModelForImageTextToText.from_pretrained("{facts.repo}")
picture = Image.open("photo.jpg").convert("RGB")
content = [{{"type": "image", "image": picture}}, {{"type": "text", "text": "What is in the picture?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
answer = model.generate(**inputs, max_new_tokens=50)[0, inputs["input_ids"].shape[1]:]
print(processor.decode(answer, skip_special_tokens=True))
```"""


def _pointing(facts: Facts) -> str:
    codec = Codec.from_dict(facts.settings["codec"])
    wordings = {k: f"`{v}`" if isinstance(v, str) else "its own words" for k, v in facts.settings["templates"].items()}
    views = ", ".join(f"{k} {v}" for k, v in facts.settings.get("options", {}).items())
    rows = {
        "boxes": f"`{codec.box_format}` in {codec.num_bins} bins along each side, between `{codec.box_open}` and "
        f"`{codec.box_close}`",
        "masks": f"{codec.slot_side**2} `{codec.mask_token}` tokens; their states times the image's features, "
        f"{codec.slot_side} x {codec.slot_side} values for each image token",
        "parallel answers": f"one for each grid point `{codec.local_token}`; `{codec.negative}` where nothing is",
        "depth": f"`{codec.depth_token}`, {codec.depth_range[0]:g} to {codec.depth_range[1]:g} metres",
        "views": views or "the family's own",
        "family": str(facts.settings["family"]),
        "wordings": ", ".join(f"{task} by {words}" for task, words in sorted(wordings.items())),
    }
    options = facts.settings.get("task_options") or {}
    rows |= {f"options of {task}": f"`{json.dumps(given)}`" for task, given in options.items() if given}
    return _table([{"": name, "is": text} for name, text in rows.items()])


def _training(facts: Facts) -> str:
    recipe, trained = facts.recipe, facts.trained
    if not recipe:
        return f"The recipe is {_UNKNOWN}."
    model, section = recipe["model"], recipe["train"]
    seconds, grams = trained.get("seconds"), trained.get("co2_grams")
    rows = {
        "language model": model["language"] + (f" on {model['quantization']} weights" if model["quantization"] else ""),
        "steps": f"{trained.get('steps') or section['max_steps']}, rows of each "
        f"{section['per_device_train_batch_size'] * section['gradient_accumulation_steps']} for every process",
        "learning rate": f"{section['learning_rate']:g}, {section['lr_scheduler_type']}",
        "time": f"{seconds:.0f} s of wall time, training alone" if seconds else _UNKNOWN,
        "carbon": f"{grams:.1f} g CO2 equivalent (codecarbon)" if grams is not None else "not measured",
        "packages": ", ".join(f"{k} {v}" for k, v in trained.get("versions", {}).items()),
    }
    data = [
        {"dataset": e["dataset"], "split": e["split"], "task": e["task"], "terms": terms(e["dataset"])}
        for e in recipe["data"]["mixture"]
    ]
    told = _table([{"": k, "is": v} for k, v in rows.items()])
    said = "The whole recipe is `recipe.yaml`. Data, with the terms as ufo-tune knows them:"
    return f"{told}\n\n{said}\n\n{_table(data)}"


def terms(dataset: str) -> str:
    """The sentences of a dataset's page that speak of its licence."""
    doc = inspect.cleandoc(plugins.find("datasets", dataset).__doc__ or "")
    sentences = [s for text in doc.split("\n\n") for s in re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(text.split()))]
    return " ".join(s for s in sentences if _TERMS.search(s)) or "none named: your own data, or drawn by ufo-tune"


def _scores(facts: Facts) -> str:
    if not facts.scored:
        return "Not measured."
    parts = []
    for scored in facts.scored:
        document = scored.document
        protocol, limit = document["protocol"], document["limit"]
        about = [
            f"### {scored.name}",
            f"{protocol.get('description') or protocol['task']}. By generation, never teacher-forced; metric "
            f"`{protocol['metric']}`, wording `{document['template']}`, measured on {scored.whose} with ufo_tune "
            f"{document['ufo_tune']}.",
        ]
        if limit:
            about.append(f"Only the first {limit} samples of each split: not to be compared with published numbers.")
        parts += [*about, _table(scored.rows())]
    return "\n\n".join(parts)


def _overlap(facts: Facts) -> str:
    """What is known of every split that was scored, and every audit."""
    checked = {row["suite"] for row in facts.overlaps}
    lines = []
    for scored in facts.scored:
        for split in scored.document["splits"]:
            if _held_out(facts.recipe, scored.name, split):
                lines.append(
                    f"- {scored.name}:{split}: training left out its pictures (equal names that look alike), as far as "
                    "they were at hand."
                )
            elif f"{scored.name}:{split}" not in checked:
                lines.append(f"- {scored.name}:{split}: not checked (`ufo-tune data audit`).")
    lines += [_audited(row) for row in facts.overlaps]
    return "\n".join(lines) or "Nothing was evaluated, so nothing was compared."


def _held_out(recipe: Mapping[str, Any], name: str, split: str) -> bool:
    """Whether the recipe keeps the pictures of a protocol's split out of training; without a split it names all."""
    if not recipe.get("data", {}).get("exclude_eval"):
        return False
    asked = [protocol.partition(":") for protocol in recipe.get("eval", {}).get("protocols", ())]
    return any(Path(file).stem == name and part in ("", split) for file, _, part in asked)


def _audited(row: Mapping[str, Any]) -> str:
    """One comparison in words. Pairs are listed; one picture may be in several."""
    shared = len({pair["ours"] for pair in row["overlaps"]})
    said = (
        f"- {row['entry']} and {row['suite']}: {shared} of {row['images']} pictures of this data are among the "
        f"{row['held_images']} of evaluation, by name or look"
    )
    said += f"; {row['unreadable']} could not be opened" if row["unreadable"] else ""
    skipped = row.get("skipped", 0)  # audits of older versions do not say
    return said + (f"; {skipped} bad rows were not looked at." if skipped else ".")


def _pictures(facts: Facts) -> list[str]:
    shown = [f"![{_plain(caption)}]({name})\n\n{_plain(caption)}" for name, caption in (facts.pictures or {}).items()]
    return (
        ["## Pictures", "Truth and prediction: the best, the worst, and answers that could not be read.", *shown]
        if shown
        else []
    )


def _limits(facts: Facts) -> str:
    codec = Codec.from_dict(facts.settings["codec"])
    lines = [
        f"- A box is known to one of {codec.num_bins} bins a side; a mask to {codec.slot_side} x {codec.slot_side} "
        "values for each image token: what is thinner than that is lost.",
        f"- Taught {', '.join(facts.tasks)}; what else the base could do was not measured again.",
        "- It answers where it is not sure, and points at things that are not there; look at `invalid` and at the "
        "worst pictures. Do not let it decide anything about people.",
        "- It has the faults and biases of its base and of the data above.",
    ]
    if not facts.scored:
        lines.insert(0, "- No score: nothing says how well it points.")
    return "\n".join(lines)


def _licence(facts: Facts) -> str:
    name = facts.origin.get("licence_name") or facts.origin.get("licence")
    said = f"The base's: {name}." if name else f"The base's licence is {_UNKNOWN}; see its page before use."
    texts = f" Text: {', '.join(f'[{t}]({t})' for t in facts.texts)}." if facts.texts else ""
    return f"{said}{texts} The terms of the training data above may bind you further."


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Markdown; the columns are those of all rows, in order, ``source`` last."""
    rows = list(rows)
    columns = list(dict.fromkeys(k for row in rows for k in row))
    columns.sort(key=lambda column: column == "source")
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(c, "")) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _plain(str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """One line that a table or an image's caption can hold."""
    return " ".join(text.split()).replace("[", "(").replace("]", ")")
