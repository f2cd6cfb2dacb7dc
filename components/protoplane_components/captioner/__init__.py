"""``forge/captioner``: tells a short story about a prompt, word by word.

What it knows is one page of text; see `ngrams`. It is here to show a component, not to write well.
"""

from protoplane_components.captioner.component import Captioner
from protoplane_components.captioner.ngrams import NgramModel

__all__ = ["Captioner", "NgramModel"]
