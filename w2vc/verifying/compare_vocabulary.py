"""The dictionary's round trip: each symbol through the output's tokenizer, and what both make of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from w2vc.planning.processor import WORD_DELIMITER, Vocabulary
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary
from w2vc.verifying.verification import Finding


def compare_vocabulary(dictionary: Dictionary, rows: int, tokenizer: Any, pad_token_id: object) -> list[Finding]:
    """Every symbol that the tokenizer has another id for, and what else doesn't fit.

    Args:
        dictionary: fairseq's.
        rows: of the CTC head.
        tokenizer: transformers', as loaded from the output.
        pad_token_id: of the config: what transformers' loss and decoders take for the blank.
    """
    findings = list(_symbols(dictionary, tokenizer))
    for where, expected, found in (
        ("len(tokenizer)", rows, len(tokenizer)),
        ("tokenizer.pad_token_id", dictionary.blank, tokenizer.pad_token_id),
        ("config.pad_token_id", dictionary.blank, pad_token_id),
    ):
        if expected != found:
            findings.append(Finding("vocabulary", where, str(expected), str(found)))
    return findings


def _symbols(dictionary: Dictionary, tokenizer: Any) -> Iterator[Finding]:
    """The special symbols have roles of their own; one that a later one overwrites can't be encoded."""
    last = {symbol: index for index, symbol in enumerate(dictionary.symbols)}
    for symbol, index in last.items():
        if symbol in SPECIAL_SYMBOLS:
            continue
        found = tokenizer.convert_tokens_to_ids(symbol)
        if found != index:
            yield Finding("vocabulary", f"the symbol {symbol!r}", f"id {index}", f"id {found}")
        token = tokenizer.convert_ids_to_tokens(index)
        if token != symbol:
            yield Finding("vocabulary", f"the id {index}", f"the symbol {symbol!r}", repr(token))


def greedy_transcript(ids: list[int], dictionary: Dictionary, vocabulary: Vocabulary) -> str:
    """The text of the likeliest symbol of each frame: repeats collapsed, blanks left out.

    As ``fairseq/examples/speech_recognition/new/decoders/viterbi_decoder.py`` does, and joined as the vocabulary says.

    Args:
        ids: the likeliest index of each frame.
        dictionary: fairseq's.
        vocabulary: what the special and the overwritten symbols are called in transformers, and how symbols join.
    """
    collapsed = [index for index, _ in groupby(ids) if index != dictionary.blank]
    texts = [vocabulary.tokens[index] for index in collapsed]
    if vocabulary.joins == "words":
        texts = [" " if text == WORD_DELIMITER else text for text in texts]
    return (" " if vocabulary.joins == "phonemes" else "").join(texts).strip()
