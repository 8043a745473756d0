"""What a frozen vision tower says of an image, kept in host memory for the next time the image comes.

    model.vision_cache = VisionCache(model.vlm, gigabytes=8)

The tower's own output is kept, before the projector, by a name of the very pixels that it sees: a picture that was
turned, cut or coloured anew is another one. Everything after the tower is Hugging Face's, as without the cache, which
only stands in for the tower's ``forward``. Images new to it go through the tower one at a time, so what comes out does
not depend on what else is in the batch or the cache: a resumed run, whose cache is empty, goes on as if it were full.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ufo_tune.errors import ConfigError, ModelError
from ufo_tune.models.base import VLM

Part = Tensor | tuple[Tensor | None, ...]
"""One field of a tower's output: a tensor, or one for each layer, of which those that nobody reads are None."""


def key_of(pixels: Mapping[str, Tensor]) -> bytes:
    """A name of what the tower sees of one image; cheap beside the tower, and made in the loader's workers."""
    made = hashlib.blake2b(digest_size=16)
    for name, values in sorted(pixels.items()):
        made.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        made.update(values.contiguous().numpy().data)
    return made.digest()


class VisionCache:
    """The least recently used images are forgotten first.

    Args:
        vlm: whose tower.
        gigabytes: of host memory at most, 1e9 bytes each, in this process.

    Raises:
        ConfigError: the tower's output is no constant: it trains, or has dropout.
    """

    def __init__(self, vlm: VLM, gigabytes: float) -> None:
        hf: Any = vlm.hf
        self._tower: nn.Module = hf.get_encoder(modality="image")
        self._reads = vlm.tower_reads
        self._layer: int | Sequence[int] = getattr(hf.config, "vision_feature_layer", -1)
        self._limit = int(gigabytes * 1e9)
        self._kept: OrderedDict[bytes, dict[str, Part]] = OrderedDict()
        self._size = 0
        self.hits = self.misses = 0  # images
        trained = next((name for name, p in self._tower.named_parameters() if p.requires_grad), None)
        if trained is not None:
            raise ConfigError(
                f"train.vision_cache: a tower that trains says something else every step (got {trained} trained in "
                f"{type(self._tower).__name__}); set train.vision_cache: 0, or freeze model.vision (and "
                "model.projector, where it is a part of the tower)"
            )
        settings = self._tower.config.to_dict()  # type: ignore[union-attr, operator]
        dropped = {n: v for n, v in settings.items() if "drop" in n and isinstance(v, float) and v > 0}
        if dropped:
            raise ConfigError(
                f"train.vision_cache: a tower with dropout says something else every time (got {dropped}); set "
                "train.vision_cache: 0, or these to 0 in the base's config.json"
            )

    @contextmanager
    def serving(self, images: Sequence[tuple[bytes, int]]) -> Iterator[None]:
        """Within the context the tower's next call is answered from here as far as possible.

        Args:
            images: ``Batch.image_keys``.
        """
        real, own = self._tower.forward, vars(self._tower).get("forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._output(images, real, args, kwargs)

        self._tower.forward = forward  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self._tower.forward  # the class's own shows again
            if own is not None:  # unless somebody else stood in its place
                self._tower.forward = own  # type: ignore[method-assign]

    def summary(self) -> str:
        """How much it was worth, in one line."""
        return (
            f"vision cache: {self.hits} of {self.hits + self.misses} images known; holds {len(self._kept)}, "
            f"{self._size / 1e9:.2f} GB"
        )

    def _output(
        self,
        images: Sequence[tuple[bytes, int]],
        real: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """What the tower would say of all images of a batch."""
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        device, rows = tensors[0].device, [n for _, n in images]
        if len(tensors[0]) != sum(rows):
            raise ModelError(
                f"{type(self._tower).__name__}: sees {len(tensors[0])} views where the batch has {sum(rows)}; the "
                "family's ``tower_rows`` is wrong, set train.vision_cache: 0"
            )
        found: list[dict[str, Part]] = []
        start = 0
        for number, (key, count) in enumerate(images):
            if key in self._kept:
                self._kept.move_to_end(key)
                self.hits += 1
                found.append(self._kept[key])
            else:
                own = partial(_own, at=slice(start, start + count), image=number, rows=sum(rows), images=len(rows))
                with torch.no_grad():
                    said = real(*map(own, args), **{name: own(value) for name, value in kwargs.items()})
                found.append(self._keep(key, said))
            start += count
        joined = {n: _each(lambda parts: torch.cat(parts).to(device), [f[n] for f in found]) for n in found[0]}
        return _Said(**(dict.fromkeys(self._reads) | joined))

    def _keep(self, key: bytes, said: Any) -> dict[str, Part]:
        """Remember what Hugging Face will read of the tower's output for one image."""
        self.misses += 1
        kept: dict[str, Part] = {}
        for name in self._reads:
            part = getattr(said, name, None)
            if part is None:  # not every kind of a family has it
                continue
            if not isinstance(part, Tensor):
                part = _layers(part, self._layer) if name == "hidden_states" else tuple(part)
            kept[name] = _each(lambda parts: parts[0].cpu(), [part])
        self._kept[key] = kept
        self._size += _size(kept)
        while self._size > self._limit:
            self._size -= _size(self._kept.popitem(last=False)[1])
        return kept


class _Said(SimpleNamespace):
    """A tower's output that has only what its family declares."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(
            f"train.vision_cache: Hugging Face reads another part of the tower's output (got {name!r}, kept "
            f"{sorted(vars(self))}); name it in the family's ``tower_reads``, or set train.vision_cache: 0"
        )


def _own(value: Any, at: slice, image: int, rows: int, images: int) -> Any:
    """One image's part of an argument of the tower: of its views, of one value an image, or the whole."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if len(value) == rows:
        return value[at]
    return value[image : image + 1] if len(value) == images else value


def _layers(states: Sequence[Tensor], wanted: int | Sequence[int]) -> tuple[Tensor | None, ...]:
    """All layers' states, of which only those remain that the config names."""
    numbers = {n % len(states) for n in ((wanted,) if isinstance(wanted, int) else wanted)}
    return tuple(state if n in numbers else None for n, state in enumerate(states))


def _each(call: Callable[[list[Tensor]], Tensor], parts: Sequence[Part]) -> Part:
    """One part out of those of several images: ``call`` joins what belongs together."""
    if isinstance(parts[0], Tensor):
        return call(list(parts))  # type: ignore[arg-type]
    layers: list[tuple[Tensor | None, ...]] = list(zip(*parts, strict=True))
    return tuple(None if layer[0] is None else call(list(layer)) for layer in layers)  # type: ignore[arg-type]


def _size(kept: Mapping[str, Part]) -> int:
    """Bytes."""
    parts = [p for part in kept.values() for p in (part if isinstance(part, tuple) else (part,)) if p is not None]
    return sum(p.numel() * p.element_size() for p in parts)
