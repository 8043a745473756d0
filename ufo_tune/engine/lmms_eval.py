"""Our models inside lmms-eval (EvolvingLMMs-Lab), for its text benchmarks and its benchmarks of boxes.

    pip install "ufo-tune[lmms-eval]"
    python -m lmms_eval --model ufo_tune --model_args pretrained=runs/x --tasks refcoco_bbox_rec_val,pope --batch_size 8

lmms-eval (0.7 or later) finds ``manifest`` by the entry point ``lmms_eval.models``. Nothing of ours imports this
module, for it needs lmms-eval. A request asks one question about at most one image; answers are greedy.

Its REC tasks (RefCOCO/+/g ``bbox_rec``, ScreenSpot ``rec``) explain in the question how a box is to be written: x0, y0,
x1, y1 in [0, 1] of the image. Our models write bins after a question of their own, so such a request is asked as task
``rec`` in the words of the training, and the box is written as the suite reads it. Every other request is asked as it
stands, as task ``vqa``. No task of the suite reads masks: those are scored by our own protocols.

Source: lmms-eval 0.7.3, ``docs/guides/model_guide.md``, ``lmms_eval/api/model.py``, ``tasks/refcoco/utils_rec.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.model import lmms
from PIL import Image as Pillow
from tqdm.auto import tqdm

from ufo_tune.core.lazy import Lazy
from ufo_tune.core.types import NO_SIZE, Prediction, Sample
from ufo_tune.engine.answering import Answering, grouped
from ufo_tune.engine.load import load
from ufo_tune.engine.predict import DECODE, Predictor, to_sample
from ufo_tune.errors import ConfigError, DataError, EvalError

NAME = "ufo_tune"
"""What ``--model`` calls it."""
BOX_QUESTION = re.compile(
    r"bounded between 0 and 1.*?provide the bounding box coordinates? of the region "
    r"(?:this sentence describes|that corresponds to the command): (?P<phrase>.+)",
    flags=re.DOTALL,
)
"""How the suite asks for one box; the rest of the question is the phrase."""
_PLACEHOLDER = re.compile(r"<image(?:\s+\d+)?>\s*")


def manifest() -> Any:
    """What lmms-eval asks an installed package for: the model's name, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest  # its package imports this module: not at the top

    return ModelManifest(model_id=NAME, simple_class_path=f"{__name__}.UfoTune")


@dataclass(frozen=True, slots=True)
class Question:
    """A request in our words. Its image is opened by ``sample``, so that a benchmark need not fit into memory."""

    where: str
    task: str
    text: str
    max_new_tokens: int
    until: tuple[str, ...]
    visuals: Callable[[], Any]

    def sample(self) -> Sample:
        """The question with its image.

        Raises:
            EvalError: it shows several images, or something else.
        """
        image = _only_image(self.visuals(), self.where)
        if image is None:
            return Sample(None, NO_SIZE, self.task, self.text, source=self.where)
        return to_sample(image, self.task, self.text).with_(source=self.where)


@dataclass(frozen=True, slots=True)
class _Samples(Lazy[Sample]):
    """Samples made on access."""

    questions: Sequence[Question]

    def __len__(self) -> int:
        return len(self.questions)

    def _make(self, number: int) -> Sample:
        return self.questions[number].sample()


class UfoTune(lmms):
    """A run or merged model as lmms-eval sees it.

    Args:
        pretrained: a run, merged model or prepared base.
        batch_size: questions of a batch.
        device: where the weights go; default this process's accelerator, or the CPU.
        max_batch_size: taken because lmms-eval gives it; not needed.

    Raises:
        ConfigError: a batch size that is no number.
        ModelError: no such model, or a damaged one.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ConfigError(f"lmms-eval: --batch_size is no number (got {batch_size!r}); give 1 or more")
        self.batch_size = int(batch_size)
        self.accelerator = Accelerator(cpu=device == "cpu")
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device if device is None else device
        self.predictor = Predictor(load(pretrained).to(self.device))

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One text per request, in their order.

        Raises:
            DataError: a question that our tasks cannot put: empty, or with one of our own tokens in it.
            EvalError: a request with several images or with video, or one that asks for sampling or beams.
        """
        questions = [self._question(request) for request in requests]
        together: dict[tuple[str, int], list[int]] = {}
        for number, question in enumerate(questions):
            together.setdefault((question.task, question.max_new_tokens), []).append(number)
        texts = [""] * len(questions)
        with tqdm(total=len(questions), desc=NAME, unit="request", disable=self._rank != 0) as bar:
            for (task, limit), numbers in together.items():
                decode = DECODE.model_copy(update={"max_new_tokens": limit, "batch_size": self.batch_size})
                answering = Answering(self.predictor.model, self.predictor.asked(task), decode)
                samples = _Samples([questions[n] for n in numbers])
                answers = answering.predictions(samples, grouped(samples))
                for number, (sample, said) in zip(numbers, answers, strict=True):
                    texts[number] = _written(sample, said, questions[number].until)
                    bar.update()
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not served.

        Raises:
            EvalError: always.
        """
        raise EvalError(_refusal(requests, "asks for likelihoods of given answers", "choose its generative variant"))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not served.

        Raises:
            EvalError: always.
        """
        raise EvalError(_refusal(requests, "asks in several rounds", "choose tasks of one round"))

    def _question(self, request: Any) -> Question:
        """One request in our words."""
        context, options, doc_to_visual, number, task, split = request.args
        where = f"lmms-eval/{task}/{split}#{number}"
        _refuse_sampling(options, where)
        text = _PLACEHOLDER.sub("", context).strip()
        if not text:
            raise DataError(f"{where}: the question is empty (got {context!r}); choose another task")
        box = BOX_QUESTION.search(text)
        until = options.get("until") or ()
        return Question(
            where=where,
            task="rec" if box else "vqa",
            text=box["phrase"] if box else text,
            max_new_tokens=int(options.get("max_new_tokens") or DECODE.max_new_tokens),
            until=(until,) if isinstance(until, str) else tuple(stop for stop in until if stop),
            visuals=lambda: doc_to_visual(self.task_dict[task][split][number]),
        )


def _written(sample: Sample, said: Prediction, until: Sequence[str]) -> str:
    """A box as the suite reads it (nothing where none could be read), or the text up to where the task stops it."""
    if sample.task == "rec":
        height, width = sample.size
        sides = (width, height, width, height)
        boxes = [[v / side for v, side in zip(box, sides, strict=True)] for box in said.boxes.tolist()]
        # An unreadable answer has a box of zeros, a miss for our metrics; to the suite it would look like an answer.
        return f"[{', '.join(f'{v:.4f}' for v in boxes[0])}]" if boxes and not said.invalid else ""
    cuts = [place for stop in until if (place := said.text.find(stop)) >= 0]
    return said.text[: min(cuts, default=len(said.text))].strip()


def _only_image(visuals: Any, where: str) -> Pillow.Image | None:
    """The one image of a request, or None where it has none."""
    images = list(visuals) if isinstance(visuals, list | tuple) else [visuals] if visuals is not None else []
    if len(images) > 1 or not all(isinstance(image, Pillow.Image) for image in images):
        kinds = [type(image).__name__ for image in images]
        raise EvalError(f"{where}: shows more than one image (got {kinds}); choose tasks of one image")
    return images[0] if images else None


def _refuse_sampling(options: Mapping[str, Any], where: str) -> None:
    if options.get("do_sample") or (options.get("temperature") or 0) > 0 or (options.get("num_beams") or 1) > 1:
        raise EvalError(
            f"{where}: asks for sampling or beams (got {dict(options)}); answers are greedy: set "
            "--gen_kwargs temperature=0,do_sample=False,num_beams=1"
        )


def _refusal(requests: Sequence[Any], what: str, remedy: str) -> str:
    tasks = sorted({str(request.task_name) for request in requests})
    where = f"lmms-eval/{', '.join(tasks) or '?'}"
    return f"{where}: {what}, which ufo_tune does not answer (got {len(requests)} requests); {remedy}"
