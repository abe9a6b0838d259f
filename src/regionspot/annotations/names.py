"""Finds images that no record can be made of, without making millions of records."""

import re

import numpy as np

from regionspot.annotations.records import RecordTable

# Every file name and size that `ImageRecord` refuses is among these, and hardly any other.
_SUSPECT_TEXT = re.compile(rb"\.\.|\0|\xed[\xa0-\xbf]")
_SUSPECT_STARTS, _SUSPECT_ENDS = b"/", b"/."


def check_names(records: RecordTable) -> None:
    """Make the records that may be refused.

    Raises:
        AnnotationError: One is.
    """
    images = records.images
    column = images.file_names
    codes = np.frombuffer(column.data, np.uint8)
    lengths = column.ends - column.starts
    filled = np.flatnonzero(lengths)
    is_suspect = lengths == 0
    is_suspect[filled] |= np.isin(codes[column.starts[filled]], list(_SUSPECT_STARTS))
    is_suspect[filled] |= np.isin(codes[column.ends[filled] - 1], list(_SUSPECT_ENDS))
    places = [found.start() for found in _SUSPECT_TEXT.finditer(column.data)]
    is_suspect[np.searchsorted(column.ends, places, side="right")] = True
    if images.sizes_hw is not None:
        is_suspect |= (images.sizes_hw < 1).any(axis=1)
    for row in np.flatnonzero(is_suspect).tolist():
        records[row]
