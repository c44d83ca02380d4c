"""`molkit doctor`: what this installation is, and whether it is whole."""

import click


@click.command()
@click.option("--quick", is_flag=True, help="Leave out the checksums of data and weights.")
def doctor(quick: bool) -> None:
    """Versions, processor, engine, disk, data and weights on one screen; a line with ! needs attention."""
    from molkit.doctor import examine
    from molkit.errors import RunError

    wrong = 0
    for line in examine(quick=quick):
        click.echo(str(line))
        wrong += line.ok is False
    if wrong:
        raise RunError(f"{wrong} of these need attention: the lines that begin with !")
