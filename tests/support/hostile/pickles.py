"""Pickles that lie, take all memory and time, or are damaged."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.forgery import PROTOCOL_2, Raw, a_call, a_dict, a_list, plainly, program, text, zipped
from tests.support.hostile.cases import ZIP, add, doubled, hostile


@hostile("bombs", 3, "if each reference were followed")
def references_that_double_forty_times() -> bytes:
    return ZIP.with_item(doubled(40))


@hostile("bombs", 3, "nests")
def tuples_a_hundred_thousand_deep() -> bytes:
    return ZIP.with_item(b")" + b"\x85" * 100_000)


@hostile("bombs", 3, "nests|collide")
def tuple_half_a_million_deep_as_a_key() -> bytes:
    return ZIP.with_item(a_dict(b")" + b"\x85" * 500_000, b"N"))


@hostile("bombs", 3, "nests|collide")
def tuple_half_a_million_deep_in_a_set() -> bytes:
    return ZIP.with_item(a_call("builtins", "set", a_list(b")" + b"\x85" * 500_000)))


@hostile("bombs", 3, "nests")
def tuple_nine_thousand_deep_as_a_key() -> bytes:
    return ZIP.with_item(a_dict(b")" + b"\x85" * 9_000, b"N"))


@hostile("bombs", 3, "nests")
def tuple_nine_thousand_deep_in_a_set() -> bytes:
    return ZIP.with_item(a_call("builtins", "set", a_list(b")" + b"\x85" * 9_000)))


@hostile("bombs", 3, "nests")
def lists_ten_thousand_deep() -> bytes:
    return ZIP.with_item(b"]" * 10_000 + b"a" * 9_999)


@hostile("bombs", 3, "would build|opcodes")
def twenty_megabytes_of_dicts() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + b"}" * 20_000_000 + b"."}))


@hostile("bombs", 3, "limit")
def pickle_of_seventy_megabytes() -> bytes:
    return zipped(ZIP.parts({"data.pkl": PROTOCOL_2 + b"N" * (70 * 2**20)}))


@hostile("bombs", 3, "collide")
def integers_that_collide() -> bytes:
    modulus = sys.hash_info.modulus
    keys = [plainly(number * modulus) + b"N" for number in range(1, 60_001)]
    return ZIP.with_item(a_dict(*keys))


@hostile("bombs", 3, "integer of")
def integer_of_two_hundred_bytes() -> bytes:
    return ZIP.with_item(b"\x8a\xc8" + b"\x7f" * 200)


@hostile("bombs", 3, "LONG4")
def integer_that_claims_two_gigabytes() -> bytes:
    return ZIP.with_item(b"\x8b\xff\xff\xff\x7f")


@hostile("bombs", 3, "text of")
def text_that_claims_four_gigabytes() -> bytes:
    return ZIP.with_item(b"X\xff\xff\xff\xff")


@hostile("bombs", 3, "bytes of Python objects")
def encoded_copies_of_a_text() -> bytes:
    once = text("a" * 2**20) + b"r\xff\xff\x00\x00"
    again = a_call("_codecs", "encode", b"j\xff\xff\x00\x00", text("latin1"))
    return ZIP.with_item(a_list(once, *[again] * 2000))


@hostile("bombs", 3, "opcodes")
def nulls_by_the_million() -> bytes:
    return ZIP.with_item(b"](" + b"N" * 4_500_000 + b"e")


@hostile("lies", 3, "no state dict")
def no_model() -> bytes:
    saved = ZIP.saved()
    del saved["model"]
    return ZIP.with_saved(saved)


@hostile("lies", 3, "no state dict")
def model_that_is_a_list() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "model": [1, 2]})


@hostile("lies", 3, "no state dict")
def model_that_is_a_stand_in() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "model": Raw(a_call("fork", "Model"))})


@hostile("lies", 3, "no tensor")
def model_that_is_empty() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "model": {}})


@hostile("lies", 3, "not a checkpoint of fairseq")
def list_in_place_of_everything() -> bytes:
    return ZIP.with_saved([1, 2, 3])


@hostile("lies", 3, "not a checkpoint of fairseq")
def stand_in_in_place_of_everything() -> bytes:
    return ZIP.with_saved(Raw(a_call("fork", "Trainer")))


@hostile("lies", 4, "carries no config")
def bare_state_dict() -> bytes:
    return ZIP.with_saved(ZIP.saved()["model"])


@hostile("damage", 3, "bytes follow the pickle")
def pickle_with_a_second_one_behind_it() -> bytes:
    return zipped(ZIP.parts({"data.pkl": ZIP.records["data.pkl"] + program({})}))


@hostile("damage", 3, "cut off")
def pickle_cut_off() -> bytes:
    return zipped(ZIP.parts({"data.pkl": ZIP.records["data.pkl"][:-100]}))


def _of_protocol(number: int) -> Callable[[Path], object]:
    body = pickle.dumps({"model": {}, "cfg": {"a": 1}}, protocol=number)
    return lambda path: path.write_bytes(zipped(ZIP.parts({"data.pkl": body})))


for _number, _word in ((0, "opcode"), (1, "no tensor"), (3, "protocol 3"), (4, "protocol 4"), (5, "protocol 5")):
    add(f"pickle_protocol_{_number}", "damage", 3, _word, _of_protocol(_number))
