"""Trains the toy world's SAM to segment what a box or a point marks.

    python -m toy_towers.train_sam --pool_dir pool --output_stem sam --num_processes 2

Images keep their aspect and are padded to the right and below, as SAM's own preprocessing does.
Shape letters: ``B`` images, ``K`` prompts an image, ``M`` mask tokens, ``S`` prompt width.
"""

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import build_sam
from regionspot.toy import extents_xyxy
from toy_towers.parallel import Ranks, run_ranks
from toy_towers.pool import NUM_HELD_OUT, POOL_SIZE, Pool, open_pool
from toy_towers.recipe import TowerOptimizer
from toy_towers.towers import TINY_SAM, round_to_half, sam_config, save_tower

_LOG = logging.getLogger(__name__)

_PROMPTS_PER_IMAGE = 4
_POINT_SHARE = 0.25
_BOX_JITTER = 0.1
_ASPECTS = (112, 128, 144, 160)
_BLOCKS = ("image_encoder.blocks", "mask_decoder.transformer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedImages:
    """One batch of images with prompts and the masks they ask for."""

    pixels: Tensor
    """Normalised and padded images, (B, 3, H, W)."""
    boxes_xyxy_sam: Tensor
    """Box prompts, (B, K, 4), pixels of the padded frame."""
    points_xy_sam: Tensor
    """A point on each object, (B, K, 2), pixels of the padded frame."""
    masks: Tensor
    """Share of each low-resolution pixel that the object covers, (B, K, H / 2, W / 2)."""


def prompted_images(
    pool: Pool, rows: NDArray[np.int64], rng: np.random.Generator, *, jitter: float
) -> PromptedImages:
    """Cut a batch out of the pool, each image at a random aspect.

    Args:
        pool: The scenes.
        rows: Which of them, (B,).
        rng: Chooses aspects, objects, points and jitter.
        jitter: Standard deviation of the box sides, in box sizes.

    Returns:
        The batch.
    """
    shape = TINY_SAM
    mean, std = np.array(shape.pixel_mean, np.float32), np.array(shape.pixel_std, np.float32)
    side, num = POOL_SIZE, _PROMPTS_PER_IMAGE
    pixels = np.zeros((len(rows), side, side, 3), np.float32)
    boxes = np.zeros((len(rows), num, 4), np.float32)
    points = np.zeros((len(rows), num, 2), np.float32)
    masks = np.zeros((len(rows), num, side // 2, side // 2), np.float32)
    for i, row in enumerate(rows):
        height, width = rng.choice(_ASPECTS, 2)
        scale = side / max(height, width)
        size_wh = (round(width * scale), round(height * scale))
        image = cv2.resize(pool.images[row], size_wh, interpolation=cv2.INTER_LINEAR)
        instances = np.zeros((side, side), np.uint8)
        instances[: size_wh[1], : size_wh[0]] = cv2.resize(
            pool.instances[row], size_wh, interpolation=cv2.INTER_NEAREST_EXACT
        )
        pixels[i, : size_wh[1], : size_wh[0]] = (image - mean) / std
        extents = extents_xyxy(instances, int(instances.max()))
        visible = np.flatnonzero((extents[:, 2:] - extents[:, :2]).min(axis=1) > 2)
        chosen = rng.choice(visible, num, replace=len(visible) < num)
        for k, index in enumerate(chosen):
            boxes[i, k] = _jittered(extents[index], jitter, rng)
            mask = instances == index + 1
            y, x = np.nonzero(mask)
            pick = rng.integers(len(x))
            points[i, k] = (x[pick] + 0.5, y[pick] + 0.5)
            masks[i, k] = mask.reshape(side // 2, 2, side // 2, 2).mean(axis=(1, 3))
    return PromptedImages(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        boxes_xyxy_sam=torch.from_numpy(boxes),
        points_xy_sam=torch.from_numpy(points),
        masks=torch.from_numpy(masks),
    )


def _jittered(
    box_xyxy: NDArray[np.float32], jitter: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    size = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    shift = np.clip(rng.normal(0, 1, 4) * jitter, -0.25, 0.25) * size
    return np.clip(box_xyxy + shift, 0, POOL_SIZE).astype(np.float32)


def decode(sam: Sam, batch: PromptedImages, *, use_points: bool) -> tuple[Tensor, Tensor]:
    """Run SAM on several images with several prompts each, which `MaskDecoder` alone cannot.

    Args:
        sam: The model.
        batch: Images and prompts.
        use_points: Prompt with the points instead of the boxes.

    Returns:
        Mask logits (B, K, M, H / 2, W / 2) and predicted IoUs (B, K, M).
    """
    embeddings = sam.image_encoder(batch.pixels)
    num_images, num_prompts = batch.boxes_xyxy_sam.shape[:2]
    total = num_images * num_prompts
    points = boxes = None
    if use_points:
        labels = torch.ones(total, 1, dtype=torch.int)
        points = (batch.points_xy_sam.view(total, 1, 2), labels)
    else:
        boxes = batch.boxes_xyxy_sam.view(total, 4)
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    decoder = sam.mask_decoder
    learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([learned.expand(total, -1, -1), sparse], dim=1)
    source = embeddings.repeat_interleave(num_prompts, dim=0) + dense
    position = sam.prompt_encoder.get_dense_pe().expand_as(source)
    decoded, source = decoder.transformer(source, position, tokens)
    grid = embeddings.shape[-2:]
    upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(total, -1, *grid))
    num_masks = decoder.num_mask_tokens
    heads = decoder.output_hypernetworks_mlps
    kernels = torch.stack([heads[m](decoded[:, 1 + m]) for m in range(num_masks)], dim=1)
    masks = (kernels @ upscaled.flatten(2)).view(
        num_images, num_prompts, num_masks, *upscaled.shape[-2:]
    )
    ious = decoder.iou_prediction_head(decoded[:, 0]).view(num_images, num_prompts, num_masks)
    return masks.float(), ious.float()


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Score masks with 20 x focal + dice, as SAM was trained.

    Args:
        logits: Mask logits, (..., H, W).
        targets: Covered share of each pixel, same shape.

    Returns:
        One loss a mask, (...).
    """
    p = logits.sigmoid()
    error = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_target = p * targets + (1 - p) * (1 - targets)
    alpha = 0.25 * targets + 0.75 * (1 - targets)
    focal = (alpha * error * (1 - p_target) ** 2).mean(dim=(-1, -2))
    overlap = 2 * (p * targets).sum(dim=(-1, -2)) + 1
    dice = 1 - overlap / ((p + targets).sum(dim=(-1, -2)) + 1)
    return 20 * focal + dice


def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Compare masks cut at zero with the truth cut at one half; (..., H, W) gives (...)."""
    ours, theirs = logits > 0, targets > 0.5
    union = (ours | theirs).sum(dim=(-1, -2)).clamp(min=1)
    return (ours & theirs).sum(dim=(-1, -2)) / union


@torch.no_grad()
def held_out_iou(sam: Sam, pool: Pool, *, use_points: bool = False, num_images: int = 200) -> float:
    """Measure the mean IoU of the single-mask answer on scenes that never trained.

    Args:
        sam: The model; evaluated as it is.
        pool: The scenes.
        use_points: Prompt with one point (and take the mask that SAM believes in most) instead of
            exact boxes.
        num_images: How many scenes, a multiple of 20.

    Returns:
        Mean intersection over union, 0 to 1.
    """
    rng = np.random.default_rng(0)
    start = len(pool.images) - NUM_HELD_OUT
    found = []
    for first in range(start, start + num_images, 20):
        batch = prompted_images(pool, np.arange(first, first + 20), rng, jitter=0.0)
        masks, ious = decode(sam, batch, use_points=use_points)
        best = ious[..., 1:].argmax(-1) + 1 if use_points else torch.zeros_like(ious[..., 0]).long()
        index = best[..., None, None, None].expand(-1, -1, 1, *masks.shape[-2:])
        chosen = masks.gather(2, index).squeeze(2)
        found.append(mask_iou(chosen, batch.masks).mean())
    return float(torch.stack(found).mean())


def train_sam(
    pool_dir: Path,
    output_stem: Path,
    *,
    num_steps: int = 500,
    batch_size: int = 16,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    num_processes: int = 1,
) -> None:
    """Train the tower; deterministic for a given number of processes and threads.

    Args:
        pool_dir: Folder written by ``python -m toy_towers.pool``.
        output_stem: ``<stem>.json`` and ``<stem>.safetensors`` are written here, and again every
            200 steps.
        num_steps: Number of steps.
        batch_size: Images a step and process, with 4 prompts each.
        learning_rate: Peak rate.
        seed: Fixes initial weights and the order of data.
        num_processes: Processes that train together, with one thread each.
    """
    work = partial(
        _train,
        pool_dir=pool_dir,
        output_stem=output_stem,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    run_ranks(work, size=num_processes)


def _train(
    crew: Ranks,
    *,
    pool_dir: Path,
    output_stem: Path,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(0)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, crew.rank])
    pool = open_pool(pool_dir)
    sam = build_sam(TINY_SAM)
    optimizer = TowerOptimizer(
        sam, blocks=_BLOCKS, learning_rate=learning_rate, num_steps=num_steps
    )
    num_train = len(pool.images) - NUM_HELD_OUT
    started = time.perf_counter()
    for step in range(num_steps):
        rows = rng.choice(num_train, batch_size, replace=False)
        batch = prompted_images(pool, rows, rng, jitter=_BOX_JITTER)
        loss = sam_loss(sam, batch, use_points=bool(rng.random() < _POINT_SHARE))
        optimizer.zero_grad()
        loss.backward()
        crew.average_gradients(optimizer.parameters)
        optimizer.step(step)
        is_report = (step + 1) % 200 == 0 or step + 1 == num_steps
        if crew.is_lead and (step % 50 == 0):
            _LOG.info("sam step %d loss %.3f", step, loss.item())
        if crew.is_lead and is_report:
            if step + 1 == num_steps:
                round_to_half(sam)
            save_tower(sam, sam_config(TINY_SAM), output_stem)
            _LOG.info(
                "sam step %d of %d, %.0f s: held-out IoU %.3f with boxes, %.3f with points",
                step + 1,
                num_steps,
                time.perf_counter() - started,
                held_out_iou(sam, pool),
                held_out_iou(sam, pool, use_points=True),
            )
        if is_report:
            crew.wait()


def sam_loss(sam: Sam, batch: PromptedImages, *, use_points: bool) -> Tensor:
    """Train the single mask, the best of the three others, and the IoU that SAM predicts.

    Args:
        sam: The model.
        batch: Images, prompts and masks.
        use_points: Prompt with points instead of boxes.

    Returns:
        A scalar. With points the single mask counts half, as one point is ambiguous.
    """
    with torch.autocast("cpu", torch.bfloat16):
        masks, ious = decode(sam, batch, use_points=use_points)
    targets = batch.masks.unsqueeze(2)
    losses = mask_loss(masks, targets.expand_as(masks))
    truth = mask_iou(masks.detach(), targets)
    single, others = losses[..., 0].mean(), losses[..., 1:].amin(-1).mean()
    weights = (0.5, 1.0) if use_points else (1.0, 0.5)
    return weights[0] * single + weights[1] * others + F.mse_loss(ious, truth)


def main() -> None:
    """Train from the command line; see ``--help``."""
    from jsonargparse import auto_cli

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    auto_cli(train_sam, as_positional=False)


if __name__ == "__main__":
    main()
