"""Template sets and text banks. Parity with open_clip is in tests/parity."""

import pytest
import torch
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from regionspot.backbones import (
    TEMPLATE_SETS,
    LoadedClip,
    OpenClipEncoder,
    WordTokenizer,
    describe_clip,
    template_texts,
)
from regionspot.core.errors import ConfigError, VocabularyError


@pytest.mark.parametrize(
    ("templates", "number", "first", "last"),
    [
        ("ensemble81", 81, "{}.", "a tattoo of the {}."),
        ("ensemble80", 80, "a bad photo of a {}.", "a tattoo of the {}."),
        ("single", 1, "a photo of a {}.", "a photo of a {}."),
        ("none", 1, "{}", "{}"),
        ("none-readable", 1, "{}", "{}"),
    ],
)
def test_template_sets_hold_what_they_say(
    templates: str, number: int, first: str, last: str
) -> None:
    texts = template_texts(templates)
    assert (len(texts), texts[0], texts[-1]) == (number, first, last)
    assert all(text.count("{}") == 1 for text in texts)
    assert templates in TEMPLATE_SETS


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no template set 'many'; give one of ensemble81"):
        template_texts("many")


def test_rows_belong_to_names_and_have_unit_norm(loaded_clip: LoadedClip) -> None:
    names = ["red star", "blue egg", "the star"]
    bank = OpenClipEncoder(loaded_clip).text_bank(names, "single")
    assert bank.shape == (3, 24)
    assert bank.dtype == torch.float32
    torch.testing.assert_close(bank.norm(dim=-1), torch.ones(3))
    backwards = OpenClipEncoder(loaded_clip).text_bank(names[::-1], "single")
    torch.testing.assert_close(backwards.flip(0), bank)


def test_no_names_are_refused(loaded_clip: LoadedClip) -> None:
    with pytest.raises(VocabularyError, match="no class name to embed"):
        OpenClipEncoder(loaded_clip).text_bank([])
    with pytest.raises(VocabularyError, match="2 class names and the synonyms of 1 classes"):
        OpenClipEncoder(loaded_clip).text_bank(["red", "egg"], "none", synonyms=[["red"]])


def test_coca_normalises_texts_by_itself_and_its_banks_are_means_of_raw_ones_all_the_same() -> None:
    words = WordTokenizer(["red", "star", "egg", "photo", "of", "a"], context_length=8)
    shape = {"context_length": 8, "vocab_size": words.vocab_size, "width": 16, "heads": 2}
    torch.manual_seed(0)
    coca = CoCa(
        embed_dim=24,
        multimodal_cfg=MultimodalCfg(**shape, layers=1),
        text_cfg=CLIPTextCfg(**shape, layers=1, embed_cls=True, output_tokens=True),
        vision_cfg=CLIPVisionCfg(
            layers=1, width=16, head_width=8, patch_size=8, image_size=16, output_tokens=True
        ),
    )
    loaded = describe_clip(coca, tokenizer=words, name="coca")
    assert (loaded.first_token, loaded.num_tokens) == ("class token", 5)
    names = [["red star", "egg"]]
    encoder = OpenClipEncoder(loaded)
    bank = encoder.text_bank(["red star"], "single-synonyms", synonyms=names)
    with torch.no_grad():
        raw, _ = coca.text(words(["a photo of a red star.", "a photo of a egg."]))
    assert raw.norm(dim=-1).std() > 1e-3  # otherwise both means agree
    torch.testing.assert_close(bank[0], raw.mean(dim=0) / raw.mean(dim=0).norm())


def test_synonyms_are_averaged_before_normalising_if_asked_for(loaded_clip: LoadedClip) -> None:
    model, tokenizer = loaded_clip.model, loaded_clip.tokenizer
    text_bank = OpenClipEncoder(loaded_clip).text_bank
    names, synonyms = ["red_star", "egg"], [["red_star", "blue egg", "star"], ["egg"]]
    bank = text_bank(names, "single-readable-synonyms", synonyms=synonyms)
    texts = ["a photo of a red star.", "a photo of a blue egg.", "a photo of a star."]
    with torch.no_grad():
        wanted = model.encode_text(tokenizer(texts)).mean(dim=0)
    torch.testing.assert_close(bank[0], wanted / wanted.norm())
    plain = text_bank(names, "single-readable")
    torch.testing.assert_close(bank[1], plain[1])
    assert (bank[0] - plain[0]).abs().max() > 1e-2
    # Names without synonyms are what they are; other sets do not look at synonyms.
    for templates, others in (("single-readable-synonyms", None), ("single-readable", synonyms)):
        found = text_bank(names, templates, synonyms=others)
        torch.testing.assert_close(found, plain)
