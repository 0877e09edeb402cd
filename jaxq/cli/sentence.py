"""A sentence as the input of a file: the word pieces of the vocabulary that the file carries, as ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxq.errors import InputError
from jaxq.export.metadata import Metadata
from jaxq.export.program import Program, describe

# The token that each role has in a BERT vocabulary.
SPECIAL = {"unknown": "[UNK]", "first": "[CLS]", "last": "[SEP]", "padding": "[PAD]"}


def file_inputs(text: str, program: Program, metadata: Metadata) -> list[np.ndarray]:
    """The inputs of a file from a sentence: token ids int32 or int64 [1, length], and, where there is a second input,
    the mask: true at tokens. What is longer is cut.

    Raises InputError for a file of other inputs, and for a vocabulary that is not BERT's.
    """
    tensors = [program.tensors[i] for i in program.inputs]
    shapes = {tensor.shape for tensor in tensors}
    fits = len(shapes) == 1 and len(tensors) <= 2 and len(tensors[0].shape) == 2 and tensors[0].shape[0] == 1
    if not fits or tensors[0].dtype not in ("int32", "int64"):
        said = ", ".join(describe(tensor) for tensor in tensors)
        raise InputError(f"The file takes {said}; a sentence is int32 [1, length], and a mask of that shape.")
    ids, mask = tokens(text, metadata.vocabulary, tensors[0].shape[1])
    return [array.astype(tensor.dtype) for array, tensor in zip((ids, mask), tensors, strict=False)]


def tokens(text: str, vocabulary: tuple[str, ...], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 and mask bool, [1, length], of a sentence. A vocabulary without capitals is of lower-case words."""
    missing = [token for token in SPECIAL.values() if token not in vocabulary]
    if missing:
        raise InputError(f"The file's vocabulary of {len(vocabulary)} tokens lacks {', '.join(missing)}: not BERT's.")
    encoded = _tokenizer(vocabulary, length).encode(text)
    return np.array([encoded.ids], np.int32), np.array([encoded.attention_mask], bool)


def _tokenizer(vocabulary: tuple[str, ...], length: int) -> Any:
    try:
        from tokenizers import BertWordPieceTokenizer
    except ModuleNotFoundError:
        raise InputError("Sentences are read by the package tokenizers. Run: pip install 'jaxq[text]'") from None
    cased = any(token != token.lower() for token in vocabulary if not token.startswith("["))
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=not cased, strip_accents=not cased)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=ids[SPECIAL["padding"]])
    return tokenizer
