"""How large shards become, worked out before anything is written. N images."""

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.codec import HEADER_BYTES
from regionspot.cache.manifest import Manifest
from regionspot.cache.tar import BLOCK_BYTES


def image_bytes(manifest: Manifest, num_regions: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what each image takes in its tar, (N,), tar headers and padding included.

    Args:
        manifest: Says how large feature maps and tokens are, and how they are stored.
        num_regions: Regions of each image, (N,).
    """
    regions = num_regions.astype(np.int64)
    feature_map = np.full_like(regions, manifest.feature_map_form.num_bytes)
    rows = (
        2 * manifest.fingerprint.token_dim,
        4 * 4,
        8,
        4,
    )  # position token, box, label, box score
    arrays = [feature_map, *(regions * row_bytes for row_bytes in rows)]
    # The json member fills one block, and each member has a tar header of one block.
    return 2 * BLOCK_BYTES + sum(
        (BLOCK_BYTES + _whole_blocks(HEADER_BYTES + array) for array in arrays),
        start=np.zeros_like(regions),
    )


def _whole_blocks(num_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
