"""Trains the toy world's CLIP from pictures and captions.

    python -m toy_towers.train_clip --pool_dir pool --output_stem clip --num_processes 2

One contrastive loss trains two read-outs of a picture: the class token, which is CLIP's own
image embedding, and the log-sum-exp over the cosines of all patches with the text. The second one
places patch tokens in text space, where those of large CLIPs are without it. Most steps show the
model only a block of each view's patches; the last third shows whole views.
"""

import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from regionspot.backbones import WordTokenizer
from toy_towers.contrast import caption_loss, draw_captions, draw_phrases, phrase_loss
from toy_towers.parallel import Ranks, run_ranks
from toy_towers.pool import NUM_HELD_OUT, Pool, open_pool
from toy_towers.probes import probe_clip
from toy_towers.recipe import TowerOptimizer
from toy_towers.towers import (
    ClipShape,
    build_clip,
    clip_config,
    clip_tokenizer,
    load_weights,
    normalised_pixels,
    round_to_half,
    save_tower,
)
from toy_towers.views import Block, View, random_view

_LOG = logging.getLogger(__name__)

_MAX_SCALE = 100.0
_REPORT_STEPS = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecipe:
    """Everything that decides what the tower becomes, apart from the pool."""

    block_steps: int = 1500
    """Steps that show a block of 8 x 8 patches of each view."""
    block_batch_size: int = 96
    """Pictures a step and process in those."""
    whole_steps: int = 650
    """Steps that show whole views, after those."""
    scene_steps: int = 0
    """Steps that show (nearly) whole scenes, after those."""
    whole_batch_size: int = 64
    """Pictures a step and process in the last two."""
    block_side: int = 8
    """Patches on each side of a block."""
    learning_rate: float = 2e-3
    """Peak rate."""
    seed: int = 0
    """Fixes initial weights and the order of data."""


def train_clip(
    pool_dir: Path,
    output_stem: Path,
    *,
    recipe: ClipRecipe | None = None,
    initial_weights: Path | None = None,
    num_processes: int = 1,
) -> None:
    """Train the tower; deterministic for a given number of processes and threads.

    Args:
        pool_dir: Folder written by ``python -m toy_towers.pool``.
        output_stem: ``<stem>.json`` and ``<stem>.safetensors`` are written here, and again every
            250 steps.
        recipe: Steps, sizes, rate and seed.
        initial_weights: A ``.safetensors`` file to start from instead of fresh weights.
        num_processes: Processes that train together, with one thread each.
    """
    work = partial(
        _train,
        pool_dir=pool_dir,
        output_stem=output_stem,
        recipe=recipe or ClipRecipe(),
        initial_weights=initial_weights,
    )
    run_ranks(work, size=num_processes)


def _train(
    crew: Ranks,
    *,
    pool_dir: Path,
    output_stem: Path,
    recipe: ClipRecipe,
    initial_weights: Path | None,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(0)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, crew.rank])
    pool = open_pool(pool_dir)
    shape = ClipShape()
    clip, tokenizer = build_clip(shape), clip_tokenizer(shape)
    if initial_weights is not None:
        load_weights(clip, initial_weights)
    num_steps = recipe.block_steps + recipe.whole_steps + recipe.scene_steps
    optimizer = TowerOptimizer(
        clip, blocks=("resblocks",), learning_rate=recipe.learning_rate, num_steps=num_steps
    )
    started = time.perf_counter()
    for step in range(num_steps):
        views = _draw_views(pool, recipe, rng, step)
        loss = clip_loss(clip, tokenizer, views, rng)
        optimizer.zero_grad()
        loss.backward()
        crew.average_gradients(optimizer.parameters)
        optimizer.step(step)
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(_MAX_SCALE))
        if crew.is_lead and step % 50 == 0:
            seconds = time.perf_counter() - started
            _LOG.info("clip step %d of %d, %.0f s: %.3f", step, num_steps, seconds, loss.item())
        is_last = step + 1 == num_steps
        if (step + 1) % _REPORT_STEPS == 0 or is_last:
            if crew.is_lead:
                if is_last:
                    round_to_half(clip)
                save_tower(clip, clip_config(shape), output_stem)
                _LOG.info("clip step %d: %s", step + 1, probe_clip(clip, tokenizer, pool))
            crew.wait()


def _draw_views(pool: Pool, recipe: ClipRecipe, rng: np.random.Generator, step: int) -> list[View]:
    is_whole = step >= recipe.block_steps
    is_scene = step >= recipe.block_steps + recipe.whole_steps
    shape = ClipShape()
    grid = shape.image_size // shape.patch_size
    side = grid if is_whole else recipe.block_side
    block = Block(grid=grid, side=side, patch_size=shape.patch_size)
    batch_size = recipe.whole_batch_size if is_whole else recipe.block_batch_size
    rows = rng.choice(len(pool.images) - NUM_HELD_OUT, batch_size, replace=False)
    return [random_view(pool, int(row), block, rng, is_scene=is_scene) for row in rows]


def clip_loss(
    clip: CLIP, tokenizer: WordTokenizer, views: list[View], rng: np.random.Generator
) -> Tensor:
    """Contrast views with texts through both read-outs.

    Args:
        clip: The tower.
        tokenizer: Its tokenizer.
        views: B pictures with what they show.
        rng: Chooses the texts.

    Returns:
        A scalar.
    """
    groups, captions = draw_phrases(views, rng), draw_captions(views, rng)
    short = [text for group in groups for text in group.texts]
    placed = [*captions.true, *captions.false]
    # float32: on a CPU without matrix units for bfloat16 that is a quarter faster.
    with sdpa_kernel(SDPBackend.MATH):
        tokens_BTE = view_tokens(clip, views)
        texts_NE = torch.cat(
            [encode_texts(clip, tokenizer(short)), encode_texts(clip, tokenizer(placed))]
        )
    tokens_BTE = F.normalize(tokens_BTE, dim=-1)
    texts_NE = F.normalize(texts_NE, dim=-1)
    logits_BTN = clip.logit_scale.exp() * tokens_BTE @ texts_NE.T
    num_patches = logits_BTN.shape[1] - 1
    read_outs = (
        logits_BTN[:, 0],
        logits_BTN[:, 1:].logsumexp(dim=1) - math.log(num_patches),
    )
    total = logits_BTN.new_zeros(())
    sizes = [len(group.texts) for group in groups]
    for logits_BN in read_outs:
        for group, logits in zip(groups, logits_BN.split([*sizes, len(placed)], 1), strict=False):
            total = total + phrase_loss(logits, group)
        if captions.pictures:
            rows = logits_BN[list(captions.pictures), len(short) :]
            total = total + caption_loss(rows)
    return total


def view_tokens(clip: CLIP, views: list[View]) -> Tensor:
    """Encode the visible blocks of views, each patch with the position code of its true place.

    Args:
        clip: The tower.
        views: B pictures with equally large blocks.

    Returns:
        All tokens in text space, not normalised, class token first: (B, 1 + P, E).
    """
    visual = clip.visual
    if not isinstance(visual, VisionTransformer):
        raise TypeError(f"the image tower is a {type(visual).__name__}, not a VisionTransformer.")
    pixels = normalised_pixels(np.stack([view.pixels for view in views]))
    patches_BDHW = visual.conv1(pixels)
    side = patches_BDHW.shape[-1]
    grid = visual.grid_size[0]
    steps = torch.arange(side)
    corners_B2 = torch.tensor([view.corner_yx for view in views])
    rows_BH, columns_BW = (corners_B2[:, i, None] + steps for i in range(2))
    places_BP = (rows_BH[:, :, None] * grid + columns_BW[:, None, :]).flatten(1)
    codes_BPD = visual.positional_embedding[1:][places_BP]
    patches_BPD = patches_BDHW.flatten(2).transpose(1, 2) + codes_BPD
    first_BD = (visual.class_embedding + visual.positional_embedding[0]).expand(len(views), 1, -1)
    tokens_BTD = visual.ln_pre(torch.cat([first_BD, patches_BPD], dim=1))
    return visual.ln_post(visual.transformer(tokens_BTD)) @ visual.proj


def encode_texts(clip: CLIP, ids_NL: Tensor) -> Tensor:
    """Encode texts without their common padding, which the causal text tower never looks at.

    Args:
        clip: The tower.
        ids_NL: Token ids from its `WordTokenizer`.

    Returns:
        What ``clip.encode_text`` returns, (N, E).
    """
    if not len(ids_NL):
        return clip.text_projection.new_zeros(0, clip.text_projection.shape[1])
    length = int((ids_NL != 0).sum(dim=1).max())
    ids_NL = ids_NL[:, :length]
    x = clip.token_embedding(ids_NL) + clip.positional_embedding[:length]
    x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
    x = clip.ln_final(x)
    return x[torch.arange(len(ids_NL)), ids_NL.argmax(dim=-1)] @ clip.text_projection


def main() -> None:
    """Train from the command line; see ``--help``."""
    from jsonargparse import auto_cli

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    auto_cli(train_clip, as_positional=False)


if __name__ == "__main__":
    main()
