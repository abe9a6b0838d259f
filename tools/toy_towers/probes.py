"""Probes of the frozen CLIP tower: what its tokens encode, measured before any head is trained.

Linear probes are fitted on two thirds of the held-out scenes and scored on the rest.
``python -m toy_towers.probes --pool_dir pool`` prints the report as JSON.
"""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import WordTokenizer
from regionspot.toy import COLOURS, SHAPES, TEXTURES, extents_xyxy, look_of, vocabulary
from toy_towers.captions import TEMPLATES
from toy_towers.pool import NUM_HELD_OUT, Pool, open_pool, squash
from toy_towers.towers import (
    ClipShape,
    build_clip,
    clip_tokenizer,
    load_weights,
    normalised_pixels,
)

_NUM_TEMPLATES = 9
_BATCH = 50
_NAMES = vocabulary()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """Accuracies in percent over the test objects, R squared for positions."""

    probe_texture: float
    """Linear probe on the mean of a box's patch tokens: texture of compositions (chance 33)."""
    probe_colour: float
    """The same for colour (chance 17)."""
    probe_shape: float
    """The same for shape (chance 12.5)."""
    patches_zero_shot: float
    """Nearest of the 164 class names to the projected mean of a box's patch tokens."""
    crop_zero_shot: float
    """Nearest class name to the class token of the box's crop."""
    position_r2_y: float
    """Linear probe of single patch tokens for their row."""
    position_r2_x: float
    """The same for the column."""
    num_objects: int
    """Objects tested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Everything that is read off the held-out scenes, in their order."""

    box_tokens: Tensor
    box_embeddings: Tensor
    crop_embeddings: Tensor
    labels: Tensor
    scenes: Tensor
    patch_tokens: Tensor


@torch.no_grad()
def probe_clip(
    clip: CLIP, tokenizer: WordTokenizer, pool: Pool, *, num_scenes: int = NUM_HELD_OUT
) -> ProbeReport:
    """Measure the tower on the pool's last scenes.

    Args:
        clip: The tower; its mode does not matter, as it has no dropout.
        tokenizer: Its tokenizer.
        pool: The scenes.
        num_scenes: How many of the last scenes to use; the first two thirds fit the probes.

    Returns:
        The report.
    """
    measured = _measure(clip, pool, num_scenes)
    is_test = measured.scenes >= num_scenes * 2 // 3
    texts_CE = _class_texts(clip, tokenizer)
    labels = measured.labels[is_test]
    accuracy = _attribute_accuracy(measured, is_test)
    r2_y, r2_x = _position_r2(measured.patch_tokens)
    return ProbeReport(
        probe_texture=accuracy[0],
        probe_colour=accuracy[1],
        probe_shape=accuracy[2],
        patches_zero_shot=_nearest(measured.box_embeddings[is_test], texts_CE, labels),
        crop_zero_shot=_nearest(measured.crop_embeddings[is_test], texts_CE, labels),
        position_r2_y=r2_y,
        position_r2_x=r2_x,
        num_objects=len(labels),
    )


def _measure(clip: CLIP, pool: Pool, num_scenes: int) -> _Measured:
    size = ClipShape().image_size
    first = len(pool.images) - num_scenes
    box_tokens, box_embeddings, crops, labels, scenes, patches = [], [], [], [], [], []
    for start in range(0, num_scenes, _BATCH):
        rows = range(first + start, first + min(start + _BATCH, num_scenes))
        pixels = np.stack([squash(pool.images[row], size) for row in rows])
        hidden_BTD = _tokens(clip, pixels)
        grid = round((hidden_BTD.shape[1] - 1) ** 0.5)
        normed = F.layer_norm(hidden_BTD[:, 1:], hidden_BTD.shape[-1:])
        patches.append(normed)
        projected = _project(clip, hidden_BTD)[:, 1:]
        for i, row in enumerate(rows):
            names = pool.classes[row]
            boxes = extents_xyxy(pool.instances[row], int((names >= 0).sum()))
            for label, box in zip(names, boxes, strict=False):
                if (box[2:] - box[:2]).min() <= 2:
                    continue
                window = _grid_window(box / pool.images.shape[1] * grid, grid)
                box_tokens.append(normed[i].view(grid, grid, -1)[window].mean(dim=(0, 1)))
                box_embeddings.append(projected[i].view(grid, grid, -1)[window].mean(dim=(0, 1)))
                x0, y0, x1, y1 = box.astype(int)
                crops.append(squash(pool.images[row][y0:y1, x0:x1], size))
                labels.append(int(label))
                scenes.append(start + i)
    # Crops are the dear part, and only those of the test scenes are looked at.
    is_test = np.array(scenes) >= num_scenes * 2 // 3
    crop_embeddings = torch.zeros(len(crops), clip.visual.output_dim)
    for chunk in np.array_split(np.flatnonzero(is_test), max(1, int(is_test.sum()) // _BATCH)):
        tokens = _tokens(clip, np.stack([crops[i] for i in chunk]))
        crop_embeddings[chunk] = _project(clip, tokens)[:, 0]
    return _Measured(
        box_tokens=torch.stack(box_tokens),
        box_embeddings=torch.stack(box_embeddings),
        crop_embeddings=crop_embeddings,
        labels=torch.tensor(labels),
        scenes=torch.tensor(scenes),
        patch_tokens=torch.cat(patches),
    )


def _visual(clip: CLIP) -> VisionTransformer:
    if not isinstance(clip.visual, VisionTransformer):
        raise TypeError(f"{type(clip.visual).__name__} is no VisionTransformer.")
    return clip.visual


def _tokens(clip: CLIP, images: NDArray[np.uint8]) -> Tensor:
    """Encode RGB bytes, (B, H, W, 3), to the last block's tokens, (B, T, D)."""
    found = _visual(clip).forward_intermediates(
        normalised_pixels(images),
        indices=1,
        output_fmt="NLC",
        output_extra_tokens=True,
        intermediates_only=True,
    )
    return torch.cat(
        [found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1
    )


def _project(clip: CLIP, tokens_BTD: Tensor) -> Tensor:
    visual = _visual(clip)
    return visual.ln_post(tokens_BTD) @ visual.proj


def _grid_window(box_xyxy: NDArray[np.float32], grid: int) -> tuple[slice, slice]:
    """Round a box in patches to whole patches, at least one."""
    x0, y0, x1, y1 = np.round(box_xyxy).astype(int)
    x0, y0 = min(x0, grid - 1), min(y0, grid - 1)
    return slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))


def _class_texts(clip: CLIP, tokenizer: WordTokenizer) -> Tensor:
    banks = [
        F.normalize(clip.encode_text(tokenizer([frame.format(n) for n in _NAMES])), dim=-1)
        for frame in TEMPLATES[:_NUM_TEMPLATES]
    ]
    return F.normalize(torch.stack(banks).mean(dim=0), dim=-1)


def _nearest(embeddings_NE: Tensor, texts_CE: Tensor, labels_N: Tensor) -> float:
    found = (F.normalize(embeddings_NE, dim=-1) @ texts_CE.T).argmax(dim=1)
    return 100 * float((found == labels_N).float().mean())


def _attribute_accuracy(measured: _Measured, is_test: Tensor) -> list[float]:
    """Fit one ridge regression for all attributes and score texture, colour and shape."""
    looks = [look_of(name) for name in _NAMES]
    is_composed = torch.tensor([look.colour is not None for look in looks])[measured.labels]
    accuracies = []
    kinds: Sequence[tuple[tuple[str, ...], list[str | None]]] = (
        (TEXTURES, [look.texture for look in looks]),
        (COLOURS, [look.colour for look in looks]),
        (SHAPES, [look.outline for look in looks]),
    )
    for values, of_class in kinds:
        index = torch.tensor([values.index(v) if v in values else -1 for v in of_class])
        target = index[measured.labels]
        fit, test = is_composed & ~is_test, is_composed & is_test
        one_hot = F.one_hot(target[fit], len(values)).float()
        scores = _ridge(measured.box_tokens[fit], one_hot, measured.box_tokens[test])
        accuracies.append(100 * float((scores.argmax(dim=1) == target[test]).float().mean()))
    return accuracies


def _position_r2(patch_tokens_BPD: Tensor, num_scenes: int = 100) -> tuple[float, float]:
    """Predict each patch's row and column from its token; R squared on unseen scenes."""
    tokens = patch_tokens_BPD[:num_scenes]
    grid = round(tokens.shape[1] ** 0.5)
    places_P2 = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).float()
    places = places_P2.repeat(len(tokens), 1)
    flat = tokens.flatten(0, 1)
    half = len(tokens) // 2 * tokens.shape[1]
    error = (_ridge(flat[:half], places[:half], flat[half:]) - places[half:]).square().mean(dim=0)
    r2 = 1 - error / places[half:].var(dim=0)
    return float(r2[0]), float(r2[1])


def _ridge(inputs: Tensor, targets: Tensor, test_inputs: Tensor, penalty: float = 1.0) -> Tensor:
    """Fit a ridge regression with a constant and predict the test rows."""
    x, z = (torch.cat([t, torch.ones(len(t), 1)], dim=1).double() for t in (inputs, test_inputs))
    gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.double)
    return (z @ torch.linalg.solve(gram, x.T @ targets.double())).float()


def probe_shipped(pool_dir: Path, clip_weights: Path) -> None:
    """Print the report of a stored tower as json.

    Args:
        pool_dir: Folder written by ``python -m toy_towers.pool``.
        clip_weights: A ``clip.safetensors`` file.
    """
    cv2.setNumThreads(0)
    shape = ClipShape()
    clip = build_clip(shape).eval()
    load_weights(clip, clip_weights)
    report = probe_clip(clip, clip_tokenizer(shape), open_pool(pool_dir))
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")


def main() -> None:
    """Probe from the command line; see ``--help``."""
    from jsonargparse import auto_cli

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    auto_cli(probe_shipped, as_positional=False)


if __name__ == "__main__":
    main()
