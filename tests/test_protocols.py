"""Named protocols: what they fix, how they are told apart, and that everything carries its rules."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from symnet import cli
from symnet.artifacts import Provenance, read_json, write_json
from symnet.config_data import ProtocolSettings
from symnet.errors import UserError
from symnet.experiment import make_experiment
from symnet.metrics import protocol_stamp
from symnet.protocols import BLOCKS, SCORINGS, WORDS, differences, in_words

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"


def rules(**given: object) -> dict:
    return ProtocolSettings.model_validate_json(json.dumps(given)).model_dump()


# name -> (novel_in_train, split, episodes, sampling, scoring, selection): what each is known for, written out a second time
EXPECTED = {
    "symnet-1": ("drop", "serial", 1000, "image", "padded", "base_val"),
    "symnet-coco-1": ("drop", "fwb", 5000, "image", "padded", "base_val"),
    "released-1": ("drop", "serial", 1000, "released", "padded", "test_best"),
    "released-coco-1": ("drop", "fwb", 5000, "released", "padded", "test_best"),
    "bam-1": ("drop", "serial", 1000, "released", "original", "test_best"),
    "bam-coco-1": ("drop", "fwb", 1000, "released", "original", "test_best"),
    "pfenet-1": ("background", "serial", 5000, "released", "original", "test_best"),
    "pfenet-coco-1": ("background", "fwb", 20000, "released", "original", "test_best"),
    "hsnet-1": ("background", "serial", 1000, "balanced", "400", "test_best"),
    "hsnet-coco-1": ("background", "fwb", 1000, "balanced", "400", "test_best"),
}


def test_the_blocks_fix_what_they_are_known_for() -> None:
    keys = ("novel_in_train", "split", "episodes", "sampling", "scoring", "selection")
    assert {name: tuple(rules(name=name)[key] for key in keys) for name in BLOCKS} == EXPECTED
    assert {(rules(name=name)["min_pixels"], rules(name=name)["crowd"]) for name in BLOCKS} == {(2048, "ignore")}


def test_a_key_that_is_given_wins_over_the_block_and_changes_the_stamp() -> None:
    changed = rules(name="bam-1", episodes=100)
    assert (changed["episodes"], changed["scoring"]) == (100, "original")
    assert differences(rules(name="bam-1"), changed) == {"episodes": ("1000 episodes a seed", "100 episodes a seed")}
    assert protocol_stamp(changed) != protocol_stamp(rules(name="bam-1"))


def test_a_name_of_one_s_own_takes_the_defaults() -> None:
    own = rules(name="mine", episodes=7)
    assert differences(own, rules()) == {"episodes": ("7 episodes a seed", "1000 episodes a seed")}


@pytest.mark.parametrize("value", [400, "400"])
def test_400_may_be_a_number(value: object) -> None:
    assert rules(scoring=value)["scoring"] == "400"


def test_every_rule_and_every_value_has_words() -> None:
    fields = ProtocolSettings.model_fields
    assert set(WORDS) == set(fields) - {"name"} | {"image_size"}
    for key, told in WORDS.items():
        allowed = getattr(fields[key].annotation, "__args__", ()) if key in fields else ()
        assert isinstance(told, str) or set(told) == set(allowed)
    assert SCORINGS == ("padded", "original", "400")
    assert "folds of every n-th class, 5000 episodes a seed" in in_words(rules(name="symnet-coco-1"))


def test_the_benchmark_s_data_sets_follow_their_blocks() -> None:
    experiment = make_experiment(yaml.safe_load(CONFIG.read_text()), str(CONFIG))
    for dataset, name in (("pascal5i", "symnet-1"), ("coco20i", "symnet-coco-1")):
        assert experiment.settings(dataset).protocol.model_dump() == rules(name=name)


def run(*words: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(cli.app, ["protocol", *words], catch_exceptions=False)
    return done.exit_code, done.output.splitlines()


def test_the_command_says_what_differs() -> None:
    assert run("diff", "symnet-1", "bam-1") == (
        1,
        [
            "sampling",
            "  symnet-1  queries in turn through the whole test list",
            "  bam-1     queries in turn from the head of the test list",
            "scoring",
            "  symnet-1  scored at the padded square",
            "  bam-1     scored at original size",
            "selection",
            "  symnet-1  weights best on held-out images of base classes",
            "  bam-1     weights best on the test fold",
        ],
    )
    assert run("diff", "bam-1", "bam-1") == (0, ["bam-1 and bam-1: the same rules"])
    assert [line.partition(":")[0] for line in run("list")[1]] == list(BLOCKS)


def test_files_are_compared_too(tmp_path: Path) -> None:
    metric = tmp_path / "seed7.json"
    write_json(metric, {"protocol": rules(name="symnet-coco-1") | {"image_size": 473}}, Provenance(stage="evaluate"))
    code, lines = run("diff", f"{CONFIG}:coco20i", str(metric))
    assert (code, lines[0], [line.split()[-1] for line in lines[1:]]) == (1, "image_size", ["641", "473"])
    assert run("diff", f"{CONFIG}:coco20i", "symnet-coco-1")[0] == 0  # a block fixes no size


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nope-1", "protocol: found 'nope-1', allowed: symnet-1, "),
        (str(CONFIG), r"config\.yaml: has pascal5i, coco20i; name one: .*config\.yaml:pascal5i"),
        (f"{CONFIG}:voc", "dataset 'voc' is not in experiment 'benchmark'"),
    ],
)
def test_what_is_no_protocol_is_told(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run("show", source)


def test_an_artifact_carries_the_rules_it_was_made_under(tmp_path: Path) -> None:
    made = Provenance(stage="x", protocol={"crowd": "ignore", "min_pixels": 3})
    write_json(tmp_path / "a.json", {}, made)
    assert read_json(tmp_path / "a.json")[1].protocol == {"crowd": "ignore", "min_pixels": 3}
    edited = (tmp_path / "a.json").read_text().replace('"min_pixels": 3', '"min_pixels": 4')
    (tmp_path / "a.json").write_text(edited)
    with pytest.raises(UserError, match="content does not match its sha256"):
        read_json(tmp_path / "a.json")
