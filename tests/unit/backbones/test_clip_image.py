"""The encoder's pixels and embeddings. Parity with open_clip is in tests/parity."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from regionspot.backbones import LoadedClip, OpenClipEncoder
from regionspot.core.errors import ShapeError


@pytest.fixture
def encoder(loaded_clip: LoadedClip) -> OpenClipEncoder:
    return OpenClipEncoder(loaded_clip)


def test_pixels_are_the_squashed_image_normalised(
    encoder: OpenClipEncoder, photo: NDArray[np.uint8]
) -> None:
    squashed = Image.fromarray(photo).resize((32, 32), Image.Resampling.BILINEAR)
    by_hand = (np.asarray(squashed, np.float64) / 255 - (0.5, 0.4, 0.3)) / 0.2
    np.testing.assert_allclose(
        encoder.preprocess(photo).numpy(), by_hand.transpose(2, 0, 1), rtol=0, atol=1e-6
    )


def test_nothing_is_cropped_away(encoder: OpenClipEncoder, photo: NDArray[np.uint8]) -> None:
    marked = photo.copy()
    marked[:, :6] = 0
    changed = (encoder.preprocess(marked) != encoder.preprocess(photo)).any(dim=0).any(dim=0)
    assert changed[:2].all()  # 6 of 90 columns are the first two of 32
    assert not changed[4:].any()


def test_crops_of_one_pixel_are_images_too(encoder: OpenClipEncoder) -> None:
    pixel = np.full((1, 1, 3), 100, np.uint8)
    assert encoder.preprocess(pixel).shape == (3, 32, 32)
    with pytest.raises(ShapeError):
        encoder.preprocess(pixel[:0])


def test_image_embeddings_are_the_normalised_projected_class_token(
    encoder: OpenClipEncoder, photo: NDArray[np.uint8]
) -> None:
    pixels = torch.stack([encoder.preprocess(photo), encoder.preprocess(photo[::-1])])
    features = encoder.features(pixels)
    assert features.shape == (2, encoder.info.num_tokens, encoder.info.width)
    embedded = encoder.embed_images(pixels)
    assert embedded.shape == (2, encoder.info.text_dim)
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(2))
    class_token = encoder.project(features)[:, 0]
    torch.testing.assert_close(torch.nn.functional.normalize(class_token, dim=-1), embedded)


def test_patch_tokens_stand_row_by_row_behind_the_class_token(
    encoder: OpenClipEncoder, loaded_clip: LoadedClip
) -> None:
    heard: list[torch.Tensor] = []
    hook = loaded_clip.model.visual.ln_pre.register_forward_hook(
        lambda _module, inputs, _output: heard.append(inputs[0])
    )
    image = np.zeros((32, 32, 3), np.uint8)
    image[8:16, 24:32] = 255  # row 1, column 3 of the 4 x 4 patches
    black = np.zeros_like(image)
    encoder.features(torch.stack([encoder.preprocess(image), encoder.preprocess(black)]))
    hook.remove()
    differs = (heard[0][0] != heard[0][1]).any(dim=-1)
    assert differs.nonzero().flatten().tolist() == [1 + 1 * 4 + 3]


def test_nothing_is_trained_through_the_encoder(encoder: OpenClipEncoder) -> None:
    pixels = torch.zeros(1, 3, 32, 32, requires_grad=True)
    for output in (encoder.features(pixels), encoder.embed_images(pixels)):
        assert not output.requires_grad
