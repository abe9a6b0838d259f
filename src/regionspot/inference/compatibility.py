"""Whether features fit a head: the identity of the frozen models is checked, never assumed.

A head sees SAM and CLIP only through their numbers. Other weights, another token site or another
input size give numbers of the same shape and silently worse names, so every door into the head
compares fingerprints first.
"""

from collections.abc import Mapping
from typing import Any

from regionspot.cache import Fingerprint
from regionspot.core.errors import CacheMismatchError


def check_same_models(
    head_fingerprint: Mapping[str, Any], found: Fingerprint, *, where: str
) -> None:
    """Check that features come from the frozen models a head was trained on.

    Args:
        head_fingerprint: The fingerprint in the head's card.
        found: The fingerprint of the features or models at hand.
        where: What ``found`` describes, for the message.

    Raises:
        CacheMismatchError: A field differs; all that differ are named.
    """
    wanted = Fingerprint.from_dict(dict(head_fingerprint))
    differences = found.differences(wanted)
    if differences:
        raise CacheMismatchError(
            f"{where} comes from other frozen models than the head was trained on: "
            + "; ".join(differences)
            + ". Use the head that was trained on these, or the models and features of this head."
        )
