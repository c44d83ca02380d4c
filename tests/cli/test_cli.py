"""What every command has in common: how it ends, and which numbers it takes."""

from collections.abc import Iterator

import click
import pytest

from molkit.claims.ledger import REPOSITORY
from molkit.cli import COMMANDS, main, run
from molkit.cli.outcome import EXIT_CODES, end_of_parts, require_some
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
