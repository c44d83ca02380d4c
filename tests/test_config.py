"""Configurations are read strictly: unknown keys, wrong types and impossible values are named in one line."""

from dataclasses import dataclass

import pytest

from molkit.config import LARGEST, from_dict, read_yaml, to_dict, whole_number, whole_ranges
from molkit.edm.config import EdmConfig
from molkit.errors import DataNotFound, InvalidInput
from molkit.training.config import TrainConfig


def test_values_survive_the_way_through_yaml_types():
    config = EdmConfig(width=32, elements=(1, 6), sizes=((3, 5), (4, 2)), schedule="cosine")
    values = to_dict(config)
    assert values["sizes"] == [[3, 5], [4, 2]]
    assert from_dict(EdmConfig, values) == config


def test_a_whole_number_will_do_for_a_real_one():
    assert from_dict(EdmConfig, {"scale_types": 8}).scale_types == 8.0
    assert isinstance(from_dict(EdmConfig, {"scale_types": 8}).scale_types, float)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (EdmConfig, {"widht": 64}, "recipe: unknown key 'widht'; known keys are .*width"),
        (EdmConfig, {"width": "64"}, r"width must be int, got '64' \(str\)"),
        (EdmConfig, {"width": 64.5}, "width must be int"),
        (EdmConfig, {"width": True}, "width must be int, got True"),
        (EdmConfig, {"width": None}, "width must be int, got None"),
        (EdmConfig, {"attention": 1}, "attention must be bool, got 1"),
        (EdmConfig, {"schedule": "linear"}, "schedule must be one of polynomial, cosine, got 'linear'"),
        (EdmConfig, {"elements": 6}, "elements must be a list, got 6"),
        (EdmConfig, {"elements": ["C", "H"]}, "elements must be int, got 'C'"),
        (EdmConfig, {"elements": []}, "elements must be different atomic numbers"),
        (EdmConfig, {"elements": [6, 6]}, "elements must be different atomic numbers"),
        (EdmConfig, {"elements": [0, 6]}, "elements must be atomic numbers in 1..118"),
        (EdmConfig, {"sizes": [[3, 1, 2]]}, r"an entry of sizes must hold 2 values, got \[3, 1, 2\]"),
        (EdmConfig, {"sizes": []}, "sizes must list"),
        (EdmConfig, {"num_layers": 0}, "num_layers must be at least 1, got 0"),
        (EdmConfig, {"scale_types": 0.0}, "scale_types must be a positive number, got 0.0"),
        (EdmConfig, {"message_scale": float("nan")}, "message_scale must be a finite number, got nan"),
        (TrainConfig, {"learning_rate": "1e-3"}, "learning_rate must be float, got '1e-3'.* after a point: 1.0e-3"),
        (TrainConfig, {"learning_rate": float("nan")}, "learning_rate must be a finite number, got nan"),
        (TrainConfig, {"ema_decay": 1.0}, "ema_decay must lie between 0 and 1, got 1.0"),
        (TrainConfig, {"log_every": 0}, "log_every must be at least 1, got 0"),
        (TrainConfig, {"total_steps": -5}, "total_steps must be at least 0, got -5"),
        (TrainConfig, {"decay_fraction": 1.5}, "decay_fraction must lie in 0..1, got 1.5"),
        (TrainConfig, {"snapshot_from": -1}, "must not be negative"),
        (TrainConfig, ["width"], "recipe: expected a table of keys and values, got list"),
    ],
)
def test_wrong_values_are_named_in_one_line(kind, values, message):
    with pytest.raises(InvalidInput, match=message) as error:
        from_dict(kind, values, source="recipe")
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Noted:
    """A field that must be there, and fields that may be empty."""

    name: str
    count: int | float | None = None
    ends: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInput("needs a name")


def test_fields_that_may_be_empty_or_of_two_kinds_keep_what_was_written():
    assert from_dict(Noted, {"name": "a", "count": None, "ends": None}) == Noted("a")
    found = from_dict(Noted, {"name": "a", "count": 3, "ends": [0, 1]})
    assert type(found.count) is int and found.ends == (0.0, 1.0) and type(found.ends[0]) is float
    assert from_dict(Noted, {"name": "a", "count": 2.5}).count == 2.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 3}, "notes: missing name$"),
        ({"name": ""}, "notes: needs a name"),
        ({"name": "a", "count": "3"}, "notes: count must be float, got '3'"),
        ({"name": "a", "count": float("nan")}, "notes: count must be a finite number"),
        ({"name": "a", "ends": [1.0]}, "notes: an entry of ends must hold 2 values"),
    ],
)
def test_what_is_missing_or_refused_is_said_with_its_source(values, message):
    with pytest.raises(InvalidInput, match=message):
        from_dict(Noted, values, source="notes")


def test_files_that_are_no_tables_are_named(tmp_path):
    path = tmp_path / "a.yaml"
    with pytest.raises(DataNotFound, match="a.yaml: no such file"):
        read_yaml(path)
    for content, message in ((b"[1, 2]", "got list"), (b"a: [1", "not readable as YAML"), (b"\xff\xfe\x00", "YAML")):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=message) as error:
            read_yaml(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_field_of_a_recipe_takes_a_number_that_is_not_finite(value):
    with pytest.raises(InvalidInput, match="scale_types must be a finite number"):
        from_dict(EdmConfig, {"scale_types": value})


def test_whole_numbers_are_read_from_digits_alone():
    assert [whole_number(text, what="x") for text in ("0", "007", " 12 ", str(LARGEST))] == [0, 7, 12, LARGEST]
    for text in ("", "²", "٣", "1_0", "-1", "1.0", "9" * 23, "9" * 5000, str(LARGEST + 1)):
        with pytest.raises(InvalidInput, match="x wants a whole number from 0 to"):
            whole_number(text, what="x")


def test_ranges_of_whole_numbers_are_read_or_refused():
    assert whole_ranges("1,2, 5-8", what="x") == [1, 2, 5, 6, 7, 8]
    assert whole_ranges("", what="x") == []
    assert whole_ranges("3-3", what="x", low=3, high=3) == [3]
    for text in (",", "1,,2", "-2", "5-", "1-2-3", "²", "1-99", "0", "9" * 23):
        with pytest.raises(InvalidInput, match="x wants a whole number from 1 to 8"):
            whole_ranges(text, what="x", low=1, high=8)
    with pytest.raises(InvalidInput, match="5-2 ends before it begins"):
        whole_ranges("5-2", what="x")
