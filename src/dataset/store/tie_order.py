"""The order of a user's events of equal time: by a hash, meaningless and reproducible.

`src.dataset.build.transforms` has the same for tables in an engine.
"""

import hashlib

TIE_KEY = "syncrec tie order 1"  # another key would be another, equally meaningless order
TIE_DIGITS = 12  # 48 bits; should two hashes agree in them, the item decides


def tie_hash(user_id: str, item_id: str, domain: str) -> str:
    """The first TIE_DIGITS hexadecimal digits of SHA-256 of TIE_KEY and the three ids, each as
    `bytes:text`."""
    texts = [text.encode() for text in (TIE_KEY, user_id, item_id, domain)]
    fields = b"".join(b"%d:%s" % (len(text), text) for text in texts)
    return hashlib.sha256(fields).hexdigest()[:TIE_DIGITS]
