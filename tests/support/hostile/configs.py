"""Configs that want to be evaluated, that take all memory and time, or that make no sense."""

from __future__ import annotations

from typing import Any

from tests.support.forgery import Raw, a_call, a_dict, text
from tests.support.hostile.cases import ZIP, changed_cfg, changed_convolutions, doubled, hostile, numbers
from tests.support.hostile.code import TOUCH
from tests.support.sandbox import SECRET_NAME


@hostile("code execution", 4, "task.normalize")
def resolver_of_the_environment() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize=f"${{oc.env:{SECRET_NAME}}}"))


@hostile("code execution", 4, "layer_norm_first")
def resolver_that_decodes() -> bytes:
    return changed_cfg(
        lambda cfg: cfg["model"]["w2v_args"]["model"].update(layer_norm_first="${oc.decode:${oc.env:HOME}}")
    )


@hostile("code execution", 4, "blank_weight")
def resolver_that_creates() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(blank_weight="${oc.create:{a:1}}"))


@hostile("code execution", 4, "conv_feature_layers")
def resolver_in_the_convolutions() -> bytes:
    return changed_cfg(
        lambda cfg: cfg["model"]["w2v_args"]["model"].update(conv_feature_layers=f"${{oc.env:{SECRET_NAME},x}}")
    )


@hostile("code execution", 4, "sample_rate")
def resolver_within_an_interpolation() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(sample_rate=f"${{task.${{oc.env:{SECRET_NAME}}}}}"))


@hostile("code execution", 4, "model.w2v_args")
def resolver_in_place_of_the_architecture() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(w2v_args="${oc.create:{model:{}}}"))


@hostile("code execution", 4, "zero_infinity")
def resolver_at_the_end_of_an_interpolation() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        cfg["common"]["wandb_project"] = f"x${{oc.env:{SECRET_NAME}}}"
        cfg["criterion"]["zero_infinity"] = "${common.wandb_project}"

    return changed_cfg(change)


@hostile("code execution", 0, "")
def resolver_in_a_key_without_effect() -> bytes:
    return changed_cfg(lambda cfg: cfg["common"].update(wandb_project=f"${{oc.env:{SECRET_NAME}}}"))


@hostile("code execution", 0, "")
def resolver_in_a_key_of_the_cfg() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({f"${{oc.env:{SECRET_NAME}}}": 1}))


@hostile("code execution", 4, "conv_feature_layers")
def convolutions_that_call() -> bytes:
    return changed_convolutions(f"__import__('os').system({TOUCH!r}) or [(12, 10, 5)]")


@hostile("code execution", 4, "conv_feature_layers")
def convolutions_that_comprehend() -> bytes:
    return changed_convolutions("[(12, k, 5) for k in (10, 3)]")


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_repeated_a_billion_times() -> bytes:
    return changed_convolutions("[(12, 10, 5)] * 1000000000")


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_repeated_over_and_over() -> bytes:
    return changed_convolutions("[(12, 10, 5)]" + " * 64" * 1500)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_added_deeply() -> bytes:
    return changed_convolutions("[(12, 10, 5)]" + "+[]" * 3000)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_in_many_parentheses() -> bytes:
    return changed_convolutions("(" * 4000 + ")" * 4000)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_with_many_signs() -> bytes:
    return changed_convolutions("-" * 9999)


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_of_three_megabytes() -> bytes:
    return changed_convolutions("[" + "(12, 10, 5)," * 250_000 + "]")


@hostile("bombs", 4, "conv_feature_layers")
def convolutions_with_a_long_number() -> bytes:
    return changed_convolutions("[(12, 10, " + "9" * 9000 + ")]")


@hostile("bombs", 3, "deeper or larger than any config")
def cfg_with_a_million_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update({numbers(1_000_000, b"N"): Raw(b"")}))


@hostile("bombs", 3, "deeper or larger than any config")
def cfg_with_a_hundred_thousand_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update({numbers(100_000, b"N"): Raw(b"")}))


@hostile("bombs", 0, "")
def cfg_with_ten_thousand_keys() -> bytes:
    return changed_cfg(lambda cfg: cfg["common"].update({numbers(10_000, b"N"): Raw(b"")}))


@hostile("bombs", 3, "deeper")
def cfg_ninety_deep() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        for _ in range(90):
            cfg["inner"] = cfg = {}

    return changed_cfg(change)


@hostile("bombs", 3, "itself")
def cfg_that_holds_itself() -> bytes:
    return ZIP.with_item(b"}r\xff\xff\x00\x00" + text("task") + b"j\xff\xff\x00\x00s", "cfg")


@hostile("bombs", 3, "itself")
def namespace_that_holds_itself() -> bytes:
    namespace = a_call("argparse", "Namespace") + b"r\xff\xff\x00\x00"
    return ZIP.with_item(namespace + a_dict(text("task"), b"j\xff\xff\x00\x00") + b"b", "cfg")


@hostile("bombs", 3, "deeper or larger than any config")
def cfg_of_references_that_double() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(data=Raw(doubled(19))))


@hostile("bombs", 4, "refers to")
def interpolation_of_itself() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize="${task.normalize}"))


@hostile("bombs", 4, "refers to")
def interpolations_in_a_circle() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        cfg["task"]["normalize"] = "${model.normalize}"
        cfg["model"]["normalize"] = "${task.normalize}"

    return changed_cfg(change)


@hostile("bombs", 4, "refers to")
def interpolations_in_a_long_row() -> bytes:
    def change(cfg: dict[str, Any]) -> None:
        cfg["common"].update({f"k{number}": f"${{common.k{number + 1}}}" for number in range(5000)})
        cfg["task"]["normalize"] = "${common.k0}"

    return changed_cfg(change)


@hostile("bombs", 4, "normalize")
def interpolation_of_a_section() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize="${task}"))


@hostile("lies", 4, "no dictionary|task.labels")
def labels_with_a_way_out() -> bytes:
    saved = ZIP.saved()
    del saved["task_state"]["target_dictionary"]
    saved["cfg"]["task"]["labels"] = "../../../../../etc/passwd"
    return ZIP.with_saved(saved)


@hostile("lies", 4, "no dictionary|task.labels")
def labels_that_steer_the_terminal() -> bytes:
    saved = ZIP.saved()
    del saved["task_state"]["target_dictionary"]
    saved["cfg"]["task"]["labels"] = "\x1b[31m\x1b]0;owned\x07\n\n"
    return ZIP.with_saved(saved)


@hostile("lies", 0, "fairseq 0.12.2 doesn't")
def cfg_key_that_steers_the_terminal() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({"\x1b[2J\x9b\x7f": 1}))


@hostile("lies", 0, "fairseq 0.12.2 doesn't")
def cfg_key_with_a_surrogate() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update({"\ud800": 1}))


@hostile("lies", 4, "carries no config")
def no_cfg() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "cfg": None})


@hostile("lies", 4, "carries no config")
def cfg_that_is_a_text() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "cfg": "${oc.env:HOME}"})


@hostile("lies", 4, "w2v_args")
def cfg_whose_sections_are_texts() -> bytes:
    return ZIP.with_saved({**ZIP.saved(), "cfg": {"model": "x", "task": "y"}})


@hostile("lies", 4, "normalize")
def cfg_value_of_another_type() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(normalize=[1, 2]))


@hostile("lies", 4, "blank_weight")
def cfg_number_that_is_infinite() -> bytes:
    return changed_cfg(lambda cfg: cfg["model"].update(blank_weight=float("inf")))


@hostile("lies", 4, "sample_rate")
def cfg_number_that_is_not_a_number() -> bytes:
    return changed_cfg(lambda cfg: cfg["task"].update(sample_rate=float("nan")))
