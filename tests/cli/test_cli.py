"""What every command has in common: how it ends, and which numbers it takes."""

import errno
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import click
import pytest

from molkit.claims.ledger import REPOSITORY
from molkit.cli import COMMANDS, main, run
from molkit.cli.options import Number, Whole
from molkit.cli.outputs import EXIT_CODES, end_of_parts, require_some
from molkit.errors import InvalidInput, PartlyDone


def commands(command: click.Command = main, name: str = "molkit") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups included."""
    yield name, command
    for part in command.list_commands(None) if isinstance(command, click.Group) else ():
        yield from commands(command.get_command(None, part), f"{name} {part}")


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_help_text_says_what_the_exit_codes_mean():
    found = dict(commands())
    assert {f"molkit {name}" for name in COMMANDS} < set(found) and "molkit edit vary" in found
    for name, command in found.items():
        assert EXIT_CODES in flat(command.get_help(click.Context(command))), name


def test_howto_states_the_same_rule():
    howto = (REPOSITORY / "howto.md").read_text(encoding="utf-8")
    for code in ("`0`", "`1`", "`2`", "`3`", "`130`"):
        assert f"| {code} |" in howto


def test_part_of_the_work_ends_with_3_and_names_the_rest_on_standard_error(capsys):
    with pytest.raises(PartlyDone, match="1 of 3 molecules left out") as raised:
        end_of_parts(2, {"molecule 2": "no bonds"})
    assert raised.value.exit_code == 3
    out, err = capsys.readouterr()
    assert out == "" and err == "left out, molecule 2: no bonds\n"


def test_nothing_done_ends_with_2_before_anything_is_written(capsys):
    with pytest.raises(InvalidInput, match="molecule 1: no bonds; nothing was written") as raised:
        require_some(0, {"molecule 1": "no bonds"})
    assert raised.value.exit_code == 2
    with pytest.raises(InvalidInput, match="none of 2 isomers"):
        require_some(0, {"a": "too large", "b": "odd"}, noun="isomers")
    assert capsys.readouterr().err == "left out, a: too large\nleft out, b: odd\n"
    with pytest.raises(InvalidInput, match="there are no molecules"):
        require_some(0, {})


def test_all_done_says_nothing(capsys):
    end_of_parts(3, {})
    assert capsys.readouterr() == ("", "")


def test_part_of_the_work_shows_no_traceback_even_with_debug(tmp_path, capsys, monkeypatch):
    from molkit.data import registry

    monkeypatch.setattr(registry, "DATA_ROOT", tmp_path / "no_data")
    (tmp_path / "a.xyz").write_text("1\n\nQq 0 0 0\n3\n\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n")
    assert run(["--debug", "score", str(tmp_path / "a.xyz")]) == 3
    out, err = capsys.readouterr()
    assert "molecules stable" in out and "left out, molecule 1: " in err and "1 of 2 molecules left out" in err


def options() -> list[tuple[str, click.Option]]:
    """Every option of every command."""
    return [(name, one) for name, command in commands() for one in command.params if isinstance(one, click.Option)]


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e999"])
def test_no_option_takes_a_number_that_is_not_finite(text):
    floats = [(name, one) for name, one in options() if isinstance(one.type, click.types.FloatParamType)]
    assert len(floats) >= 10
    for name, option in floats:
        assert isinstance(option.type, Number), (name, option.name)
        with pytest.raises(click.BadParameter):
            option.type.convert(text, option, None)


@pytest.mark.parametrize("text", ["9" * 23, "-" + "9" * 23, "9" * 5000, "²", "1.5", "nan", "many"])
def test_no_option_takes_a_whole_number_that_is_none_or_too_large(text):
    whole = [(name, one) for name, one in options() if isinstance(one.type, click.types.IntParamType)]
    assert len(whole) >= 40
    for name, option in whole:
        assert isinstance(option.type, Whole), (name, option.name)
        with pytest.raises(click.BadParameter):
            option.type.convert(text, option, None)


def test_numbers_in_range_are_taken_as_they_are():
    assert (
        Number(min=0.5).convert("0.5", None, None) == 0.5
        and Whole(min=1).convert("2147483647", None, None) == 2**31 - 1
    )
    with pytest.raises(click.BadParameter, match="not in the range"):
        Number(min=0.5).convert("0.4", None, None)


@pytest.fixture
def toy(tmp_path):
    """Weights of a small untrained model, and a molecule of nine atoms."""
    from molkit.chem.files import write_xyz
    from molkit.chem.rdkit_tools import embed_smiles
    from molkit.edm.config import EdmConfig
    from molkit.edm.model import build, save

    sizes = ((5, 1), (9, 1), (12, 1))
    save(build(EdmConfig(width=8, num_layers=1, num_steps=10, sizes=sizes), seed=0), tmp_path / "toy")
    write_xyz(tmp_path / "ethanol.xyz", embed_smiles("CCO")[0])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("edit compose toy C99999999999999999999H4 --out o.sdf", "C wants a whole number from 1 to 100000"),
        ("edit compose toy C0H4 --out o.sdf", "C wants a whole number from 1"),
        ("edit compose toy C²H4 --out o.sdf", "expected a chemical formula"),
        ("edit complete toy ethanol.xyz --add ² --out o.sdf", "--add, where it is no formula, wants a whole number"),
        (
            "edit complete toy ethanol.xyz --start 0.3 --from-noise --out o.sdf",
            "give --start or --from-noise, not both",
        ),
        ("edit complete toy ethanol.xyz --add 3 --start 1e9 --out o.sdf", "the noise level must lie in"),
        ("edit complete toy ethanol.xyz --add -3 --out o.sdf", "--add, where it is no formula, wants a whole number"),
        ("edit complete toy ethanol.xyz --add 1000000000 --out o.sdf", "1000000009 atoms in all"),
        ("edit complete toy ethanol.xyz --add 99999999999999999999 --out o.sdf", "wants a whole number"),
        ("edit vary toy ethanol.xyz --sigma 0.3 --keep-atoms 5-2 --out o.sdf", "5-2 ends before it begins"),
        ("edit vary toy ethanol.xyz --sigma 0.3 --keep-atoms 1-99 --out o.sdf", "from 1 to 9, got '99'"),
        ("edit vary toy ethanol.xyz --sigma 0.3 --keep-atoms , --out o.sdf", "from 1 to 9, got ''"),
        ("edit vary toy ethanol.xyz --sigma nan --out o.sdf", "not a finite number"),
        ("relax ethanol.xyz --with toy --sigma nan --out o.sdf", "--sigma wants a number in angstrom or auto"),
        ("sample toy --guidance nan --out o.sdf", "not a finite number"),
        ("sample toy --condition alpha=nan --out o.sdf", "alpha"),
        ("sample toy --calls ² --out o.sdf", "--calls (network calls, or all for the full chain) wants a whole number"),
        ("pipeline --sizes ² --out p", "--sizes (such as 3-8 or 5,9,12) wants a whole number from 2 to 400"),
        ("pipeline --sizes 8-3 --out p", "8-3 ends before it begins"),
        ("conformers CCO --seed 99999999999999999999999 --out o.sdf", "--seed"),
        ("ensembles make qm9-test --window nan --out p", "--window"),
        ("train edm_qm9_cpu --time-budget nan --out p", "--time-budget"),
        ("labels water --largest nan --out p", "--largest"),
        ("study dft_warm_start --heavy ² --store p", "--heavy (with commas)"),
        ("study ablations --seeds 99999999999999999999999 --store p", "--seeds"),
        ("study ofdft-classical --geometries water:² --out o.json", "CLASS:NUMBER"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name_and_nothing_is_written(toy, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(toy)
    before = sorted(path.name for path in toy.iterdir())
    assert run(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error and "internal" not in error
    assert sorted(path.name for path in toy.iterdir()) == before


REASONS = {"b": "it broke"}


def half_a_farm(*_, **__):
    """A farm's report of one part that was done and one that was not."""
    return SimpleNamespace(done=("a",), failed=REASONS)


def test_every_command_with_many_parts_ends_alike(toy, monkeypatch, capsys):
    from molkit.edm import editing
    from molkit.ofdft import label_files
    from molkit.studies.conformers import reference_sets

    monkeypatch.chdir(toy)
    (toy / "two.smi").write_text("C a\nCC b\n")
    monkeypatch.setattr(label_files, "generate", half_a_farm)
    monkeypatch.setattr(reference_sets, "make_all", half_a_farm)
    monkeypatch.setattr(reference_sets, "trajectory_tasks", lambda *_, **__: {"a": None, "b": None})
    with_composition = editing.with_composition
    monkeypatch.setattr(
        editing, "with_composition", lambda *some, **more: replace(with_composition(*some, **more), failed=(1,))
    )
    for arguments, name in (
        ("labels water --count 2 --out labels", "b: it broke"),
        ("ensembles make two.smi --out ensembles", "b: it broke"),
        ("ensembles trajectories --isomers 2 --out md", "b: it broke"),
        ("edit compose toy C2H6O --calls 3 --count 1 --out made.xyz", "molecule 2: its chain did not stay finite"),
    ):
        assert run(arguments.split()) == 3, arguments
        out, err = capsys.readouterr()
        assert f"left out, {name}" in err and "1 of 2 " in err
    assert (toy / "made.xyz").is_file()


@pytest.mark.parametrize(
    ("number", "code", "words"), [(errno.ENOSPC, 2, "writing failed"), (errno.EIO + 1000, 1, "int")]
)
def test_a_full_disk_is_the_users_and_any_other_error_of_the_system_ours(monkeypatch, capsys, number, code, words):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "No space left on device", "/somewhere")

    monkeypatch.setattr("molkit.claims.table.ledger_rows", refuse)
    assert run(["ledger"]) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
