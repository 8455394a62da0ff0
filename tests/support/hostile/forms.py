"""The same tricks in what others make of a checkpoint: bare state dicts, Lightning's, s3prl's.

The gate neither knows nor cares what the dict is: it has to refuse each for the same reason as in fairseq's own form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.forgery import Made, Part, Raw, a_call, a_dict, a_list, altered, model, plainly, text, zipped
from tests.support.hostile.budgets import MODULUS
from tests.support.hostile.budgets import _globals as many_globals
from tests.support.hostile.cases import HEAD, ZIP, add, head, head_storage, writing
from tests.support.hostile.two_readers import the_head

Tensors = dict[Any, Any]


def _state_dict(tensors: Tensors) -> Made:
    ordered = ZIP.saved()["model"]
    assert isinstance(ordered, Made)
    ordered.items = tensors
    return ordered


_FORMS: dict[str, Callable[[Tensors, dict[str, Any]], Any]] = {
    "bare": lambda tensors, beside: {**tensors, **beside},
    "state_dict": lambda tensors, beside: {"state_dict": _state_dict(tensors), **beside},
    "model_state_dict": lambda tensors, beside: {"model_state_dict": _state_dict(tensors), "epoch": 3, **beside},
    "model": lambda tensors, beside: {"model": _state_dict(tensors), "optimizer": {}, **beside},
    "lightning": lambda tensors, beside: {
        "pytorch-lightning_version": "2.0.0",
        "state_dict": _state_dict({f"model.{name}": tensor for name, tensor in tensors.items()}),
        "hyper_parameters": {"lr": 0.1, **beside},
        "callbacks": {},
    },
    "s3prl": lambda tensors, beside: {
        "task_cfg": ZIP.saved()["cfg"]["task"],
        "model_cfg": ZIP.saved()["cfg"]["model"]["w2v_args"]["model"],
        "model_weight": _state_dict(tensors),
        "dictionaries_symbols": [],
        **beside,
    },
    "parallel": lambda tensors, beside: {f"module.{name}": tensor for name, tensor in tensors.items()} | beside,
}


def _tensors(change: Callable[[Tensors], object] = lambda _tensors: None) -> Tensors:
    tensors = model(ZIP.saved())
    change(tensors)
    return tensors


def _of_the_head(**changes: Any) -> Tensors:
    return _tensors(lambda tensors: tensors.update({HEAD: altered(head(), **changes)}))


_PAYLOADS: dict[str, tuple[str, Callable[[], tuple[Tensors, dict[str, Any]]]]] = {
    "code": (r"os\.system", lambda: (_tensors(), {"x": Raw(a_call("os", "system", text("touch canary")))})),
    "code_among_the_tensors": (
        r"os\.system",
        lambda: (_tensors(lambda found: found.update(x=Raw(a_call("os", "system", text("true"))))), {}),
    ),
    "many_globals": ("globals", lambda: (_tensors(), {"x": Raw(many_globals(3_000))})),
    "colliding_keys": (
        "collide",
        lambda: (_tensors(), {"x": Raw(a_dict(*(plainly(number * MODULUS) + b"N" for number in range(1, 20_000))))}),
    ),
    "depth": ("nests", lambda: (_tensors(), {"x": Raw(b"]" * 5_000 + b"a" * 4_999)})),
    "encoded_copies": (
        "would build|copies",
        lambda: (
            _tensors(),
            {
                "x": Raw(
                    a_list(
                        text("a" * 2**20) + b"r\xff\xff\x00\x00",
                        *[a_call("_codecs", "encode", b"j\xff\xff\x00\x00", text("latin1"))] * 1_000,
                    )
                )
            },
        ),
    ),
    "long_storage": ("but the pickle says", lambda: (_of_the_head(storage=head_storage(numel=10_000)), {})),
    "no_record": ("has no record", lambda: (_of_the_head(storage=head_storage(key="nowhere")), {})),
    "far_offset": ("beyond its storage", lambda: (_of_the_head(offset=1), {})),
    "negative_stride": ("arguments that it never has", lambda: (_of_the_head(stride=(-20, 1)), {})),
    "negation_bit": (
        "metadata",
        lambda: (_tensors(lambda found: found.update({HEAD: Raw(the_head(a_dict(text("neg"), b"\x88")))})), {}),
    ),
    "hook": (
        "hook",
        lambda: (
            _tensors(
                lambda found: found.update(
                    {HEAD: Raw(the_head(hooks=a_call("collections", "OrderedDict") + b"(" + b"K\x01" + b"N" + b"u"))}
                )
            ),
            {},
        ),
    ),
}


def _made(form: str, payload: str) -> Callable[[], bytes]:
    return lambda: ZIP.with_saved(_FORMS[form](*_PAYLOADS[payload][1]()))


# All of them in the simplest and in the richest form, and in the others those that stand for a kind.
_EVERYWHERE = ("code", "many_globals", "far_offset", "negation_bit")

for _form in _FORMS:
    for _payload, (_word, _content) in _PAYLOADS.items():
        if _form not in ("bare", "s3prl") and _payload not in _EVERYWHERE:
            continue
        add(f"{_form}_form_with_{_payload}", "lies", 3, _word, writing(_made(_form, _payload)))


def _with_flipped_pickle(form: str) -> Callable[[], bytes]:
    def make() -> bytes:
        data = ZIP.with_saved(_FORMS[form](_tensors(), {}))
        at = data.index(text(HEAD)) + 10
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    return make


for _form in ("bare", "state_dict", "s3prl"):
    add(f"{_form}_form_with_a_flipped_bit", "damage", 3, "CRC-32 is wrong", writing(_with_flipped_pickle(_form)))


def _with_two_roots(form: str) -> Callable[[], bytes]:
    saved = _FORMS[form](_tensors(), {})
    return lambda: zipped([*ZIP.parts(), Part("other/data.pkl", ZIP.with_saved(saved)[:100])])


add("bare_form_beside_another_root", "lies", 3, "root", writing(_with_two_roots("bare")))
