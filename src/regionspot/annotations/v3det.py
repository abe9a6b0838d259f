"""V3Det ground truth: COCO's layout, with 13,204 categories that are described at length."""

from regionspot.annotations.coco import named_file
from regionspot.annotations.coco_json import read_coco_json
from regionspot.annotations.options import Source
from regionspot.annotations.raw import RawAnnotations


def read_v3det(source: Source) -> RawAnnotations:
    """Read a V3Det file; an image's file is its ``file_name``, below the folder of ``images``.

    Files without the descriptions, which other tools write, are taken, too. In some copies two
    categories have one name; that is refused, since their labels could not be told apart by text:
    the message names both, and one has to be renamed in the file.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not V3Det ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    return read_coco_json(source.path, format_name="v3det", file_name_of=named_file, also=("coco",))
