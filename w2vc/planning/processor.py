"""Tokenizer and feature extractor: the small files that go with the weights.

Only files that every supported transformers reads are written: ``vocab.json``, ``tokenizer_config.json`` and
``preprocessor_config.json``. Sources: ``transformers/models/wav2vec2/tokenization_wav2vec2.py``,
``wav2vec2_phoneme/tokenization_wav2vec2_phoneme.py`` and ``feature_extraction_wav2vec2.py``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from w2vc.families.family import Head
from w2vc.families.interpreter import Description
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary

WORD_DELIMITER = "|"
SENTENCE_PIECE = "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True)
class Vocabulary:
    """A dictionary as transformers' tokenizer has it.

    Attributes:
        tokens: token by id; all different, since the tokenizer's file maps tokens to ids.
        blank, bos, eos, unk: the tokens with these roles.
        joins: how symbols become text: ``words`` (letters with a word delimiter), ``phonemes`` (with spaces between
            them) or ``pieces`` (one after the other).
        notes: what a reader should know.
    """

    tokens: tuple[str, ...]
    blank: str
    bos: str
    eos: str
    unk: str
    joins: str
    notes: tuple[str, ...]

    @property
    def ids(self) -> dict[str, int]:
        """Id by token."""
        return {token: index for index, token in enumerate(self.tokens)}


def vocabulary(dictionary: Dictionary, labels: str | None) -> Vocabulary:
    """The tokens for a dictionary.

    CTC's blank is fairseq's ``<s>``, and transformers' blank is the padding token: so the token of ``<s>`` is
    ``<pad>``, and that of ``<pad>`` is ``<s>``. A symbol that a later one has overwritten keeps its id under a name of
    its own: it can't be encoded any more, in fairseq either.

    Args:
        dictionary: fairseq's.
        labels: the training task's ``labels`` (``ltr``, ``phn``, …), where known.
    """
    last = {symbol: index for index, symbol in enumerate(dictionary.symbols)}
    exchanged = {"<s>": "<pad>", "<pad>": "<s>"}
    tokens: list[str] = []
    overwritten = []
    taken = set(last)
    numbers: dict[str, int] = {}
    for index, symbol in enumerate(dictionary.symbols):
        token = exchanged.get(symbol, symbol)
        if last[symbol] != index:
            overwritten.append(index)
            token = _free_name(f"{token}#fairseq:overwritten", taken, numbers)
            taken.add(token)
        tokens.append(token)
    notes = [f"symbols {_some(overwritten)} are overwritten by later ones (#fairseq:overwrite)"] if overwritten else []
    blank, pad, eos, unk = (tokens[last[symbol]] for symbol in SPECIAL_SYMBOLS)
    joins = _joins(dictionary.symbols[len(SPECIAL_SYMBOLS) :], labels)
    return Vocabulary(tuple(tokens), blank=blank, bos=pad, eos=eos, unk=unk, joins=joins, notes=tuple(notes))


def _some(indices: list[int]) -> str:
    more = f" and {len(indices) - 20} more" if len(indices) > 20 else ""
    return f"{indices[:20]}{more}"


def _free_name(wanted: str, taken: AbstractSet[str], numbers: dict[str, int]) -> str:
    """Return the name, or with the next number that is free; ``numbers`` keeps where to go on, for many equal ones."""
    if wanted not in taken:
        return wanted
    number = numbers.get(wanted, 2)
    while f"{wanted}:{number}" in taken:
        number += 1
    numbers[wanted] = number + 1
    return f"{wanted}:{number}"


_JOINS_BY_LABELS = {"phn": "phonemes", "ltr": "pieces", "chr": "pieces", "char": "pieces"}


def _joins(symbols: tuple[str, ...], labels: str | None) -> str:
    if WORD_DELIMITER in symbols:
        return "words"
    if any(SENTENCE_PIECE in symbol for symbol in symbols):
        return "pieces"
    if labels in _JOINS_BY_LABELS:
        return _JOINS_BY_LABELS[labels]
    several = any(_characters(symbol) > 1 for symbol in symbols if not _is_marker(symbol))
    return "phonemes" if several else "pieces"


def _is_marker(symbol: str) -> bool:
    return (symbol.startswith("<") and symbol.endswith(">")) or symbol.startswith("madeupword")


def _characters(symbol: str) -> int:
    """How many characters a reader sees: Unicode's extended grapheme clusters."""
    import regex  # here, so that only a conversion that needs it pays for it

    return len(regex.findall(r"\X", symbol))


def tokenizer_config(vocabulary: Vocabulary) -> dict[str, object]:
    """The contents of ``tokenizer_config.json``."""
    values: dict[str, object] = {
        "bos_token": vocabulary.bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": vocabulary.eos,
        "model_max_length": 1000000000000000019884624838656,  # transformers' own way to say: no limit
        "pad_token": vocabulary.blank,
        "processor_class": "Wav2Vec2Processor",
        "unk_token": vocabulary.unk,
    }
    if vocabulary.joins == "phonemes":
        return values | {
            "do_phonemize": False,
            "phone_delimiter_token": " ",
            "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
        }
    return values | {
        "do_lower_case": False,
        "replace_word_delimiter_char": " ",
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        # Any other delimiter that the dictionary lacks would be added after the last logit by transformers 5.
        "word_delimiter_token": WORD_DELIMITER if vocabulary.joins == "words" else "",
    }


def can_be_nested(vocabulary: Vocabulary) -> bool:
    """Whether the tokenizer can have the vocabularies of several languages (``set_target_lang``)."""
    return vocabulary.joins != "phonemes"


def preprocessor_config(description: Description, head: Head) -> dict[str, object]:
    """The contents of ``preprocessor_config.json``."""
    values: dict[str, object] = {
        "do_normalize": description.normalize,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        # fairseq masks padding in every model, also where a group norm's statistics take the padding in.
        "return_attention_mask": True,
        "sampling_rate": description.sample_rate,
    }
    # Without a tokenizer there is no processor to load.
    return values | {"processor_class": "Wav2Vec2Processor"} if head == "ctc" else values
