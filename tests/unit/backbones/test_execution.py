"""Precisions and compilation change how fast numbers come, and by how little they differ."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from helpers.toy_numbers import TOLERANCES, relative_error, toy_numbers
from regionspot.backbones import (
    FLOAT32,
    BoxPrompts,
    Execution,
    LoadedClip,
    Localizer,
    ModelsConfig,
    OpenClipEncoder,
    Precision,
    SamLocalizer,
    load_frozen_models,
    region_tokens,
)
from regionspot.backbones.to_frame import SamPrompts

BOXES = np.array([[3.0, 4.0, 40.0, 30.0], [20.0, 1.0, 88.0, 44.0]], np.float32)
SIZE_HW = (45, 90)

Photo = NDArray[np.uint8]


def in_precision(sam: Sam, precision: Precision) -> SamLocalizer:
    execution = Execution(precision=precision)
    return SamLocalizer(sam, token_site="mlp", model_name="small", execution=execution)  # noqa: S106


def answers(localizer: Localizer, photo: Photo) -> dict[str, Tensor]:
    """Return all that a localizer makes of a photo."""
    embedding = localizer.embed(localizer.preprocess(photo)[None])
    prompts = SamPrompts(boxes_xyxy_sam=torch.tensor([[1.0, 2.0, 30.0, 31.0]]))
    logits, ratings = localizer.decode_masks(embedding, prompts, several=True)
    tokens = region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW)
    return {"embedding": embedding, "tokens": tokens, "logits": logits, "ratings": ratings}


def assert_close_but_not_equal(
    found: dict[str, Tensor], wanted: dict[str, Tensor], precision: Precision
) -> None:
    for name, values in found.items():
        assert values.dtype == torch.float32, name
        assert 0 < relative_error(values, wanted[name]) < TOLERANCES[precision], name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sam_in_16_bits_is_close_to_float32(sam: Sam, photo: Photo, precision: Precision) -> None:
    found, wanted = in_precision(sam, precision), in_precision(sam, "float32")
    assert_close_but_not_equal(answers(found, photo), answers(wanted, photo), precision)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_clip_in_16_bits_is_close_to_float32(
    loaded_clip: LoadedClip, photo: Photo, precision: Precision
) -> None:
    encoder = OpenClipEncoder(loaded_clip, execution=Execution(precision=precision))
    pixels = encoder.preprocess(photo)[None]

    def maps_and_embeddings(encoder: OpenClipEncoder) -> dict[str, Tensor]:
        return {"map": encoder.features(pixels), "embedding": encoder.embed_images(pixels)}

    found = maps_and_embeddings(encoder)
    assert_close_but_not_equal(found, maps_and_embeddings(encoder.reference()), precision)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_shipped_models_in_16_bits_are_close_to_float32(precision: Precision) -> None:
    assert_close_but_not_equal(
        toy_numbers("cpu", precision), toy_numbers("cpu", "float32"), precision
    )


# --- What stays in float32 -------------------------------------------------------------------


def output_dtypes(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], run: Callable[[], object]
) -> set[torch.dtype]:
    seen: set[torch.dtype] = set()

    def hear(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.add(output.dtype)

    hooks = [m.register_forward_hook(hear) for m in model.modules() if isinstance(m, kinds)]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def test_matrix_products_are_in_16_bits_and_norms_in_float32(
    sam: Sam, loaded_clip: LoadedClip, photo: Photo
) -> None:
    localizer = in_precision(sam, "bfloat16")
    encoder = OpenClipEncoder(loaded_clip, execution=Execution(precision="bfloat16"))
    pixels = encoder.preprocess(photo)[None]
    visual = loaded_clip.model.visual

    def run_sam() -> None:
        answers(localizer, photo)

    def run_clip() -> None:
        encoder.features(pixels)

    norms = (nn.LayerNorm, LayerNorm2d)
    residual_stream: list[torch.dtype] = []  # where it ends: once in 16 bits, it would stay there
    sam.image_encoder.neck.register_forward_pre_hook(
        lambda _module, inputs: residual_stream.append(inputs[0].dtype)
    )
    without_prompts = nn.ModuleList([sam.image_encoder, sam.mask_decoder])
    assert output_dtypes(without_prompts, (nn.Linear, nn.Conv2d), run_sam) == {torch.bfloat16}
    assert output_dtypes(sam, norms, run_sam) == {torch.float32}
    assert set(residual_stream) == {torch.float32}
    assert output_dtypes(visual, (nn.Conv2d, nn.GELU), run_clip) == {torch.bfloat16}
    assert output_dtypes(visual, norms, run_clip) == {torch.float32}
    block = type(visual.transformer.resblocks[0])
    assert output_dtypes(visual, (block,), run_clip) == {torch.float32}


def test_prompts_are_embedded_to_the_last_bit_of_float32(sam: Sam, photo: Photo) -> None:
    heard: list[tuple[Any, Tensor]] = []
    hook = sam.prompt_encoder.register_forward_hook(
        lambda _module, _inputs, kwargs, output: heard.append((kwargs["boxes"], output[0])),
        with_kwargs=True,
    )
    answers(in_precision(sam, "bfloat16"), photo)
    hook.remove()
    for boxes, embedded in heard:
        theirs, _ = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        assert torch.equal(embedded, theirs)
    assert len(heard) == 2


# --- Batches for a compiled encoder ----------------------------------------------------------


@pytest.mark.parametrize(
    ("compiled_batch_size", "at_once", "seen"),
    [(None, None, [5]), (None, 2, [2, 2, 1]), (4, None, [4, 4]), (4, 2, [2, 2, 2]), (8, None, [8])],
)
def test_only_a_compiled_encoder_is_given_batches_filled_up_to_one_size(
    compiled_batch_size: int | None, at_once: int | None, seen: list[int]
) -> None:
    pixels = torch.arange(5 * 3.0).view(5, 3, 1, 1)
    sizes: list[int] = []

    def encode(pixels_BCHW: Tensor) -> Tensor:
        sizes.append(len(pixels_BCHW))
        return pixels_BCHW + 1

    execution = Execution(compiled_batch_size=compiled_batch_size)
    encoded = execution.encode_in_batches(encode, pixels, at_once=at_once)
    assert torch.equal(encoded, torch.arange(1, 16.0).view(5, 3, 1, 1))
    assert sizes == seen


@pytest.mark.slow
def test_compiled_models_give_the_numbers_of_eager_ones_whatever_the_batch(photo: Photo) -> None:
    torch.set_num_threads(1)
    config = ModelsConfig(preset="toy", compile=True)
    models = load_frozen_models(config, batch_size=2)
    localizer, encoder = models.localizer, models.encoder
    frames = torch.stack([localizer.preprocess(image) for image in (photo, photo[:, ::-1].copy())])
    squares = torch.stack([encoder.preprocess(image) for image in (photo, photo[::-1].copy())])
    embedded, maps = localizer.embed(frames), encoder.features(squares)
    assert relative_error(embedded, localizer.reference().embed(frames)) < 1e-5
    assert relative_error(maps, encoder.reference().features(squares)) < 1e-5
    assert torch.equal(localizer.embed(frames[:1]), embedded[:1])
    assert torch.equal(encoder.features(squares[[0, 1, 0]]), maps[[0, 1, 0]])


@pytest.mark.slow
def test_without_a_compiler_compilation_is_refused_saying_what_to_install(tmp_path: Path) -> None:
    code = """
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.core.errors import ConfigError
try:
    load_frozen_models(ModelsConfig(preset="toy", compile=True))
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("models.compile is true, but torch.compile does not work on cpu")
    assert "apt-get install g++, or set the variable CXX); or leave out models.compile." in (
        done.stdout
    )


def test_float32_is_not_tf32_on_a_gpu() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    with FLOAT32.autocast(torch.device("cuda")):
        assert not cudnn.allow_tf32
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == before[:3]
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
