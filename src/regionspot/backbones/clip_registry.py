"""What follows from a CLIP's name: whether there is one, its tokenizer, its normalisation."""

import difflib
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from regionspot.backbones.extras import needs_extra
from regionspot.core.errors import ConfigError, WeightsError

_logger = logging.getLogger(__name__)

Tokenizer = Callable[[list[str]], Tensor]
"""N texts to token ids, (N, L) int64."""


def check_clip_name(model: str) -> None:
    """Check that there is a CLIP of a name.

    Raises:
        ConfigError: There is none; the message has names like it.
        MissingExtraError: ``open_clip`` is not installed.
    """
    with needs_extra("extract"):
        import open_clip
    names = open_clip.list_models()
    if model in (*names, "tiny"):
        return
    spelled = {name.lower(): name for name in names}
    close = [spelled[name] for name in difflib.get_close_matches(model.lower(), spelled)]
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise ConfigError(
        f"open_clip has no model {model!r}; {meant}open_clip.list_models() lists them,"
        " ViT-B-16-quickgelu and ViT-L-14-quickgelu among them (option models.clip)."
    )


def clip_tokenizer(model: str) -> Tokenizer:
    """Return the tokenizer of one of open_clip's models; some are downloaded by ``transformers``.

    Raises:
        WeightsError: It cannot be had.
        MissingExtraError: The model's tokenizer needs ``transformers``, which is not installed.
    """
    with needs_extra("extract"):
        import open_clip
    hub = open_clip.get_model_config(model)["text_cfg"].get("hf_tokenizer_name")
    if not hub:
        tokenizer: Tokenizer = open_clip.get_tokenizer(model)
        return tokenizer
    try:
        with needs_extra("transformers"):
            tokenizer = open_clip.get_tokenizer(model)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the tokenizer of CLIP {model} could not be got from"
            f" https://huggingface.co/{hub} ({error}). {_from_elsewhere(hub)}"
        ) from error
    return tokenizer


def check_text_tower(model: str) -> None:
    """Check that a text tower which ``transformers`` builds can be built.

    Raises:
        WeightsError: Its description cannot be had.
        MissingExtraError: ``transformers`` is not installed.
    """
    with needs_extra("extract"):
        import open_clip
    hub = open_clip.get_model_config(model)["text_cfg"].get("hf_model_name")
    if not hub:
        return
    try:
        with needs_extra("transformers"):
            from transformers import AutoConfig
        AutoConfig.from_pretrained(hub)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the text tower of CLIP {model} is described at https://huggingface.co/{hub}, which"
            f" could not be got ({error}). {_from_elsewhere(hub)}"
        ) from error


def usual_preprocessing(model: str) -> dict[str, Any]:
    """Return mean and std of a model's released weights, for weights that come without them.

    Returns:
        ``mean`` and ``std`` for open_clip's ``force_preprocess_cfg``; empty, which means OpenAI's,
        where no weights are released or they differ.
    """
    with needs_extra("extract"):
        import open_clip
    tags = open_clip.list_pretrained_tags_by_model(model)
    cards = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    kinds = {(tuple(card["mean"]), tuple(card["std"])) for card in cards if card.get("mean")}
    if len(kinds) == 1:
        ((mean, std),) = kinds
        return {"mean": mean, "std": std}
    if kinds:
        _logger.warning(
            "released weights of CLIP %s differ in how their input is normalised, and the ones"
            " given do not say; it is normalised as OpenAI's.",
            model,
        )
    return {}


def _from_elsewhere(hub: str) -> str:
    return (
        f"Where there is no network, type `hf download {hub}` on a machine that has one, copy its"
        " ~/.cache/huggingface (or $HF_HOME) to this one, and set HF_HUB_OFFLINE=1."
    )
