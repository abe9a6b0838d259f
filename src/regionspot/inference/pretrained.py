"""Trained heads with their frozen models: loaded, saved and shared."""

from pathlib import Path
from typing import Self

from regionspot.backbones import FrozenModels, WordTokenizer
from regionspot.core.errors import VocabularyError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.hub import save_head, upload_head
from regionspot.inference.matching_models import load_matching_models
from regionspot.model import TrainedHead, load_trained_head


class Pretrained:
    """A trained head and the frozen models that it was trained on; `RegionSpot` uses them.

    Args:
        trained_head: A fusion head with its classifier and card.
        models: The frozen SAM and CLIP, which this constructor does not check.
    """

    def __init__(self, trained_head: TrainedHead, models: FrozenModels) -> None:
        self._trained_head = trained_head
        self._models = models

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: str = "auto",
        *,
        sam_weights: str | None = None,
        clip_weights: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Load a trained head and the frozen models that it was trained on.

        Args:
            name_or_path: A folder with ``head.safetensors`` and ``head.json``, the folder of a run,
                or a ``.ckpt`` or ``.safetensors`` file; or ``hf://owner/name`` on the Hugging Face
                Hub.
            device: Where everything runs: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".
            sam_weights: Name or path of SAM's weights; None takes the released ones.
            clip_weights: Tag or path of CLIP's weights; None takes the usual ones.
            revision: Branch, tag or commit on the Hub; None is the main branch.
            token: The Hub's access token; None takes that of ``hf auth login``, if any.
            local_files_only: Whether to use earlier downloads from the Hub without asking it.
            cache_dir: Where downloads from the Hub are kept; None is its client's folder.

        Raises:
            MissingFileError: There is no trained head at the path, or on the Hub.
            StorageError: The Hub refuses access or does not answer.
            WeightsError: A weights file does not fit.
            CacheMismatchError: SAM or CLIP are not those that the head was trained on.
            MissingExtraError: The extra ``extract`` is not installed.
        """
        trained_head = load_trained_head(
            name_or_path,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
        )
        models = load_matching_models(
            trained_head, device=device, sam_weights=sam_weights, clip_weights=clip_weights
        )
        return cls(trained_head, models)

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        metrics: Path | str | None = None,
        weights_license: str | None = None,
    ) -> None:
        """Write a folder that `from_pretrained` loads: the head, its text bank, and a model card.

        SAM and CLIP are not part of it; the card in ``head.json`` has the hashes of their weights.

        Args:
            folder: The folder; created if necessary.
            metrics: The metrics.json of evaluate.py, or its folder, for the figures in the card.
            weights_license: Identifier of the licence under which you publish the head, such as
                "apache-2.0".

        Raises:
            MissingFileError: There are no metrics.
            ConfigError: The metrics are no figures of an evaluation.
        """
        save_head(folder, self._trained_head, metrics=metrics, weights_license=weights_license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: Path | str | None = None,
        weights_license: str | None = None,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a RegionSpot head",
    ) -> str:
        """Upload the files of `save_pretrained` to the Hugging Face Hub in one commit.

        Args:
            repo_id: ``owner/name``; the repository is created if necessary.
            metrics: As in `save_pretrained`.
            weights_license: As in `save_pretrained`.
            token: The Hub's access token; None takes that of ``hf auth login``.
            private: Whether a new repository is private; None takes the owner's default.
            revision: The branch; None is the main branch.
            commit_message: The commit's message.

        Returns:
            The URL of the commit.

        Raises:
            StorageError: The Hub refuses access or does not answer.
            MissingExtraError: The extra ``hub`` is not installed.
        """
        return upload_head(
            repo_id,
            self._trained_head,
            metrics=metrics,
            weights_license=weights_license,
            token=token,
            private=private,
            revision=revision,
            commit_message=commit_message,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The names of training, the default of `recognize`.

        Raises:
            VocabularyError: The head's card does not name any.
        """
        names = self._trained_head.card.vocabulary
        if not names:
            raise VocabularyError(
                "the head's card does not name the classes of its training: give the names to"
                " choose from, vocabulary=[...]."
            )
        return Vocabulary(names)

    @property
    def known_words(self) -> tuple[str, ...]:
        """The only words that names may consist of; empty if CLIP reads any word.

        Only the tiny CLIPs of the toy world have such a list.
        """
        tokenizer = self._models.encoder.tokenizer
        return tokenizer.words if isinstance(tokenizer, WordTokenizer) else ()
