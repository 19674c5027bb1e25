"""Ids and domains in memory as `--strip` and `--fold_case` of make_dataset.py write them.

`src.dataset.build.spelling` has the same for tables in an engine.
"""

from typing import Any

import pyarrow.compute as pc

Strings = Any  # pa.Array or pa.ChunkedArray; pyarrow has no types

DOTTED_I, PLAIN_I = "\u0130", "i\u0307"
FINAL_SIGMA, SIGMA = "\u03c2", "\u03c3"  # Spark writes the first at the end of a word


def as_written(texts: Strings, strip: bool, fold_case: bool) -> Strings:
    """The texts as the two options write them."""
    texts = without_blanks(texts) if strip else texts
    return in_lower_case(texts) if fold_case else texts


def without_blanks(texts: Strings) -> Strings:
    """The texts without the blanks around them."""
    return pc.utf8_trim_whitespace(texts)


def in_lower_case(texts: Strings) -> Strings:
    """The texts in lower case."""
    if pc.all(pc.string_is_ascii(texts)).as_py() is not False:  # null for no text
        return pc.utf8_lower(texts)
    lower = pc.utf8_lower(pc.replace_substring(texts, DOTTED_I, PLAIN_I))
    return pc.replace_substring(lower, FINAL_SIGMA, SIGMA)
