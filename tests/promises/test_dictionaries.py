"""Dictionaries of all kinds: read as real fairseq reads them, and decoded by transformers to the same symbols."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.conftest import FIXTURES
from w2vc.errors import DictionaryError
from w2vc.planning.processor import Vocabulary, tokenizer_config, vocabulary
from w2vc.reading.dictionary import SPECIAL_SYMBOLS, Dictionary, read_dictionary

FOLDER = FIXTURES / "dictionaries"
RECORDED: dict[str, dict[str, Any]] = json.loads((FOLDER / "recorded.json").read_text(encoding="utf-8"))
READ = sorted(name for name, record in RECORDED.items() if "symbols" in record)
REFUSED = sorted(name for name, record in RECORDED.items() if "error" in record)


def dictionary(name: str) -> Dictionary:
    return read_dictionary(FOLDER / f"{name}.txt")


@pytest.mark.parametrize("name", READ)
def test_a_dictionary_has_the_symbols_that_fairseq_read_from_it(name: str) -> None:
    assert list(dictionary(name).symbols) == RECORDED[name]["symbols"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_fairseq_does_not_read_is_refused(name: str) -> None:
    with pytest.raises(DictionaryError):
        dictionary(name)


def test_every_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 1\nb\nc 3\na 4\n", encoding="utf-8")
    with pytest.raises(DictionaryError) as caught:
        read_dictionary(path)
    assert len(caught.value.problems) == 2
    assert "line 2" in caught.value.problems[0]
    assert "line 4" in caught.value.problems[1]


def tokenizer(words: Vocabulary, folder: Path) -> Any:
    """Loaded from its files by the installed transformers, as a user loads it."""
    (folder / "vocab.json").write_text(json.dumps(words.ids, ensure_ascii=False), encoding="utf-8")
    config = tokenizer_config(words)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "wav2vec2-conformer"}', encoding="utf-8")
    return transformers.AutoTokenizer.from_pretrained(folder)


def expected_tokens(found: Dictionary, words: Vocabulary) -> list[str]:
    """fairseq's symbols, with ``<s>`` and ``<pad>`` exchanged, and each overwritten one under the name it was given."""
    exchanged = {"<s>": "<pad>", "<pad>": "<s>"}
    last = {symbol: index for index, symbol in enumerate(found.symbols)}
    return [
        exchanged.get(symbol, symbol) if last[symbol] == index else words.tokens[index]
        for index, symbol in enumerate(found.symbols)
    ]


@pytest.mark.parametrize("name", READ)
def test_each_id_decodes_to_its_symbol_and_the_lengths_agree(name: str, tmp_path: Path) -> None:
    found = dictionary(name)
    words = vocabulary(found, None)
    loaded = tokenizer(words, tmp_path)
    assert len(loaded) == len(found)
    assert loaded.convert_ids_to_tokens(list(range(len(found)))) == expected_tokens(found, words)
    assert loaded.pad_token_id == found.blank
    assert len(set(words.tokens)) == len(found)


@pytest.mark.parametrize("name", READ)
def test_a_greedy_decoding_is_the_text_that_fairseqs_symbols_make(name: str, tmp_path: Path) -> None:
    found = dictionary(name)
    words = vocabulary(found, None)
    spoken = [
        index
        for index, symbol in enumerate(found.symbols)
        if index >= len(SPECIAL_SYMBOLS) and found.symbols.count(symbol) == 1
    ]
    ids = [index for symbol in spoken for index in (found.blank, symbol, symbol)]
    symbols = [found.symbols[index] for index in spoken]
    texts = {
        # fairseq/data/data_utils.py, post_process("letter"); transformers leaves a | inside a longer symbol alone.
        "words": "".join(" " if symbol == "|" else symbol for symbol in symbols),
        "phonemes": " ".join(symbols),
        "pieces": "".join(symbols),
    }
    assert tokenizer(words, tmp_path).decode(ids) == texts[words.joins].strip()


@pytest.mark.parametrize(
    ("name", "labels", "joins"),
    [
        ("letters", "ltr", "pieces"),
        ("phonemes", "phn", "phonemes"),
        ("phonemes", None, "phonemes"),
        ("sentence_pieces", "spm", "pieces"),
        ("chinese", "chr", "pieces"),
        ("emoji", None, "pieces"),
        ("devanagari", None, "pieces"),
        ("hangul_jamo", None, "pieces"),
    ],
)
def test_without_a_word_delimiter_it_is_found_out_how_symbols_join(name: str, labels: str | None, joins: str) -> None:
    without_words = Dictionary(tuple(symbol for symbol in dictionary(name).symbols if symbol != "|"), name)
    assert vocabulary(without_words, labels).joins == joins


def test_an_overwritten_blank_is_the_padding_token_where_it_is_now() -> None:
    found = dictionary("overwrite_specials")
    words = vocabulary(found, None)
    assert found.blank > 3
    assert words.tokens[found.blank] == "<pad>"
    assert words.ids[words.blank] == found.blank


# ---------------------------------------------------------------------------------------------------------------
# Large vocabularies


def load_both(words: Vocabulary, folder: Path) -> tuple[Any, Any]:
    """The tokenizer as a user loads it, and as the acceptance does."""
    from w2vc.writing.acceptance import load_classes, load_tokenizer

    real = tokenizer(words, folder)
    values = tokenizer_config(words)
    kind = load_classes("PretrainedConfig", with_tokenizer=True).tokenizers[str(values.pop("tokenizer_class"))]
    values.pop("processor_class")
    return real, load_tokenizer(kind, vocab_file=str(folder / "vocab.json"), **values)


def assert_same(words: Vocabulary, folder: Path) -> None:
    real, accepted = load_both(words, folder)
    ids = list(range(len(words.tokens)))
    assert type(accepted) is type(real)
    assert len(accepted) == len(real)
    assert accepted.get_vocab() == real.get_vocab()
    assert accepted.get_added_vocab() == real.get_added_vocab()
    assert accepted.all_special_tokens == real.all_special_tokens
    assert accepted.convert_ids_to_tokens(ids) == real.convert_ids_to_tokens(ids)
    assert accepted.decode(ids) == real.decode(ids)
    text = "".join(words.tokens[:200])
    assert accepted.tokenize(text) == real.tokenize(text)


@pytest.mark.parametrize("name", READ)
def test_the_acceptance_loads_the_same_tokenizer_as_a_user(name: str, tmp_path: Path) -> None:
    assert_same(vocabulary(dictionary(name), None), tmp_path)


def pieces(count: int) -> Dictionary:
    return Dictionary(
        (*SPECIAL_SYMBOLS, *(f"\N{LOWER ONE EIGHTH BLOCK}piece{number}" for number in range(count))), "many"
    )


def test_the_acceptance_loads_the_same_tokenizer_for_sentence_pieces(tmp_path: Path) -> None:
    assert_same(vocabulary(pieces(1000), "spm"), tmp_path)


def calls(act: Callable[[], object]) -> int:
    """How many calls something makes: what it costs, whatever the clock says."""
    count = 0

    def note(_frame: object, _event: str, _argument: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def test_the_acceptance_is_linear_in_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary is copied as often for many symbols as for few; with one call for each it would be 4,000 times."""
    from transformers.models.wav2vec2.tokenization_wav2vec2 import Wav2Vec2CTCTokenizer

    get_vocab = Wav2Vec2CTCTokenizer.get_vocab
    copies: list[int] = []

    def counted(self: Any) -> Any:
        copies[-1] += 1
        return get_vocab(self)

    monkeypatch.setattr(Wav2Vec2CTCTokenizer, "get_vocab", counted)
    from w2vc.writing.acceptance import load_tokenizer

    for count in (10, 4000):
        words = vocabulary(pieces(count), "spm")
        (tmp_path / "vocab.json").write_text(json.dumps(words.ids), encoding="utf-8")
        values = {key: value for key, value in tokenizer_config(words).items() if "class" not in key}
        copies.append(0)
        load_tokenizer(Wav2Vec2CTCTokenizer, vocab_file=str(tmp_path / "vocab.json"), **values)
    assert copies[0] == copies[1] < 20


def test_names_for_overwritten_symbols_are_found_in_linear_time() -> None:
    few, many = (Dictionary((*SPECIAL_SYMBOLS, *["a"] * count), "equal") for count in (100, 10_000))
    assert calls(lambda: vocabulary(many, "ltr")) < 200 * calls(lambda: vocabulary(few, "ltr"))
    words = vocabulary(many, "ltr")
    assert len(set(words.tokens)) == len(words.tokens)
    assert len(words.notes[0]) < 300
