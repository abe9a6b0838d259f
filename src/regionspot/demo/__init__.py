"""A web page that names any region of a picture; ``regionspot demo`` serves it.

The page itself (`regionspot.demo.page`, `regionspot.demo.server`) is imported by the command only,
as it needs gradio.
"""

from regionspot.demo.answers import Answer, Answers, Example, check_words
from regionspot.demo.limits import Limits
from regionspot.demo.toy_pictures import write_toy_pictures

__all__ = ["Answer", "Answers", "Example", "Limits", "check_words", "write_toy_pictures"]
