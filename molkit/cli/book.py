"""`molkit book`: run the chapters, render the pages, say where things stand."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from molkit.cli.options import Engine, Whole, engine_options, retry_option, whole_numbers
from molkit.cli.outputs import OutFolder
from molkit.errors import InvalidInput, PartlyDone, RunError

if TYPE_CHECKING:
    from molkit.book.execute import Outcome
    from molkit.book.layout import Book
    from molkit.book.parameters import Settings

PROFILE = click.option("--profile", default="fast", show_default=True, help="smoke, fast or paper.")
CHAPTERS = click.option("--chapters", multiple=True, metavar="NAME", help="Only this chapter; may be repeated.")
JOBS = click.option("--jobs", default=1, show_default=True, type=Whole(1, 256), help="Chapters at a time.")
FORCE = click.option("--force", is_flag=True, help="Run even what has not changed.")
PARAMETERS = click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="Replace a parameter.")
ROOT = click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), help="Folder of the book; default: this checkout."
)
PACKAGE = click.option("--package", multiple=True, hidden=True, help="First-party package in the folder of the book.")


@click.group()
def book() -> None:
    """Run, build and inspect the book."""


@book.command()
@PROFILE
@CHAPTERS
@JOBS
@FORCE
@PARAMETERS
@ROOT
@PACKAGE
def run(profile: str, chapters: tuple, jobs: int, force: bool, parameters: tuple, root: Path, package: tuple) -> None:
    """Run the chapters whose code, package files, parameters, data or pins have changed."""
    from molkit.book.execute import run_chapters

    chosen = _book(root, package)
    settings = _settings(chosen, profile, chapters, parameters)
    outcomes = run_chapters(chosen, profile, settings, jobs=jobs, force=force, report=_say)
    _stop_if_failed([outcome.chapter for outcome in outcomes if outcome.state == "failed"], len(outcomes))
    click.echo(f"Executed notebooks are in {chosen.run_folder(profile)}.")


@book.command()
@PROFILE
@CHAPTERS
@JOBS
@FORCE
@PARAMETERS
@click.option("--publish-results", is_flag=True, help="Also copy what the runs recorded to data/results.")
@ROOT
@PACKAGE
def build(
    profile: str,
    chapters: tuple,
    jobs: int,
    force: bool,
    parameters: tuple,
    publish_results: bool,
    root: Path,
    package: tuple,
) -> None:
    """Run what has changed and render every page."""
    from molkit.book import build as building

    chosen = _book(root, package)
    if publish_results and profile not in building.KEEPS_RESULTS:
        raise InvalidInput(f"results of the {profile} profile are not kept; publish those of fast or paper")
    settings = _settings(chosen, profile, chapters, parameters)
    built = building.build_book(chosen, profile, settings, jobs=jobs, force=force, report=_say)
    if publish_results:
        files = building.publish_results(chosen, profile)
        click.echo(f"Published {len(files)} results to {chosen.data_folder / 'results'}.")
    click.echo(f"The book is at {built.index}")
    _stop_if_failed(built.failed, len(settings))


@book.command()
@PROFILE
@ROOT
@PACKAGE
def status(profile: str, root: Path, package: tuple) -> None:
    """Say for each chapter what its last run was, and what has changed since."""
    from molkit.book.cache import duration, memory, read_record, reasons_to_run

    chosen = _book(root, package)
    for chapter, settings in _settings(chosen, profile, (), ()).items():
        reasons = reasons_to_run(chosen, chapter, profile, settings.parameters)
        record = read_record(chosen, chapter, profile)
        last = f", {duration(record.seconds)}, {memory(record.peak_memory_mib)}, {record.finished}" if record else ""
        click.echo(f"{chapter}  {'would run: ' + _few(reasons) if reasons else 'up to date'}{last}")


@book.command()
@CHAPTERS
@JOBS
@ROOT
@PACKAGE
def refresh(chapters: tuple, jobs: int, root: Path, package: tuple) -> None:
    """Run the smoke profile and write its outputs into the committed notebooks."""
    from molkit.book.build import refresh as refresh_notebooks

    chosen = _book(root, package)
    for path in refresh_notebooks(chosen, chosen.choose(chapters), jobs=jobs, report=_say):
        click.echo(f"Wrote {path}")


@book.command()
@PROFILE
@CHAPTERS
@click.option("--seeds", default="0,1,2", show_default=True, help="Whole numbers with commas.")
@click.option("--out", type=OutFolder(), required=True, help="Folder of the grid.")
@PARAMETERS
@engine_options
@ROOT
@PACKAGE
@retry_option("out")
def grid(
    profile: str, chapters: tuple, seeds: str, out: Path, parameters: tuple, engine: Engine, root: Path, package: tuple
) -> None:
    """Run chapters with many seeds and print what each claim spreads by; finished ones are not repeated."""
    from molkit.book.grid import cells, run_grid, spreads

    chosen = _book(root, package)
    tasks = cells(chosen, profile, _settings(chosen, profile, chapters, parameters), whole_numbers(seeds), out)
    with engine.open() as executor:
        report = run_grid(tasks, out, executor=executor, progress=True)
    for spread in spreads(report):
        between = "" if spread.deviation is None else f" ± {spread.deviation:.3g} between seeds"
        click.echo(f"{spread.claim_id}  {spread.mean:.4g}{between} (n = {len(spread.values)})")
    for key, reason in report.failed.items():
        click.echo(f"failed: {key}: {reason}", err=True)
    click.echo(f"{len(report.done)} of {len(tasks)} runs are in {out}")
    _stop_if_failed(list(report.failed), len(tasks), noun="runs")


@book.command()
@PROFILE
@ROOT
def verdicts(profile: str, root: Path) -> None:
    """Print each verdict that the last runs would change if their results were published; nothing if none."""
    from molkit.book.stage import changed_verdicts
    from molkit.book.stage import verdicts as judged

    chosen = _book(root, ())
    for line in changed_verdicts(judged(chosen), judged(chosen, profile)):
        click.echo(line)


@book.command()
@click.option("--browser/--no-browser", default=True, show_default=True, help="Also open the pages in Chromium.")
@ROOT
def check(browser: bool, root: Path) -> None:
    """Check that the rendered pages load nothing from outside, and draw what they should."""
    from molkit.book.check import check_pages

    chosen = _book(root, ())
    passed, problems, skipped = check_pages(chosen.build_folder / "html", browser=browser)
    for line in skipped:
        click.echo(f"skipped: {line}")
    _say_failed(problems)
    click.echo(f"{passed} passed, {len(problems)} failed")
    if problems:
        raise _ours(f"{len(problems)} checks of the pages failed; the lines above name them")


@book.command()
@click.option("--out", type=OutFolder(), required=True, help="Folder of the pictures.")
@ROOT
def pictures(out: Path, root: Path) -> None:
    """Take a picture of every rendered page, as wide as a desk and as a phone, opened from the disk."""
    from molkit.book.check import take_pictures

    taken, problems = take_pictures(_book(root, ()).build_folder / "html", out)
    _say_failed(problems)
    click.echo(f"{len(taken)} pictures are in {out}")
    if problems:
        raise _ours(f"{len(problems)} complaints of the browser; the lines above name the pages")


@book.command()
@click.option("--out", type=OutFolder(), required=True, help="Folder of the notebooks.")
@ROOT
def colab(out: Path, root: Path) -> None:
    """Write the chapters for Google Colab: each fetches the book first. MOLKIT_REPOSITORY says from where."""
    from molkit.book.archive import VARIABLE, repository_address, write_notebooks
    from molkit.claims.provenance import commit

    address = repository_address()
    if not address:
        raise InvalidInput(f"set {VARIABLE} to the address of the public repository, https://github.com/OWNER/NAME")
    head, _ = commit()
    written = write_notebooks(_book(root, ()), out, address=address, commit=head)
    click.echo(f"{len(written)} notebooks are in {out}; publish them on the branch `colab` of {address}")


@book.command()
@click.option("--out", type=OutFolder(), required=True, help="Folder of the archives.")
@ROOT
def archive(out: Path, root: Path) -> None:
    """Pack the sources and the rendered book of a release, with checksums."""
    from molkit.book.archive import make_archives

    for path in make_archives(_book(root, ()), out):
        click.echo(path)


def _book(root: Path | None, packages: tuple[str, ...]) -> "Book":
    from molkit.book.layout import Book

    defaults = Book()
    chosen = Book(root.resolve() if root else defaults.root, packages or defaults.packages)
    chosen.pages()
    return chosen


def _settings(chosen: "Book", profile: str, chapters: tuple, parameters: tuple) -> "dict[str, Settings]":
    """The chosen chapters with their checked settings."""
    from molkit.book.parameters import load_profile, read_overrides, with_overrides

    loaded = load_profile(chosen, profile)
    settings = {chapter: loaded[chapter] for chapter in chosen.choose(chapters)}
    return with_overrides(chosen, settings, read_overrides(parameters))


def _say(outcome: "Outcome") -> None:
    from molkit.book.cache import duration, memory

    record = outcome.record
    if outcome.state == "cached":
        click.echo(f"{outcome.chapter}  cached")
        return
    cost = f"{duration(record.seconds)}, {memory(record.peak_memory_mib)}"
    if outcome.state == "failed":
        error = " ".join(record.error.split())[:300]
        click.echo(f"{outcome.chapter}  FAILED after {duration(record.seconds)}: {error}", err=True)
        return
    over = f", over its budget of {duration(record.budget_seconds)}" if record.seconds > record.budget_seconds else ""
    click.echo(f"{outcome.chapter}  ran in {cost}{over} ({_few(outcome.reasons)})")


def _say_failed(problems: list[str]) -> None:
    for line in problems:
        click.echo(f"failed: {line}", err=True)


def _few(reasons: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(reasons[:3])
    return shown if len(reasons) <= 3 else f"{shown} and {len(reasons) - 3} more changed"


def _stop_if_failed(failed: list[str], total: int, *, noun: str = "chapters") -> None:
    """Raise PartlyDone where some failed, an error of ours where all did."""
    where = "; their partial notebooks are in _run/" if noun == "chapters" else ""
    if failed:
        message = f"{len(failed)} of {total} {noun} failed: {', '.join(failed)}{where}"
        raise PartlyDone(message) if len(failed) < total else _ours(message)


def _ours(message: str) -> RunError:
    """An error of the book, not of the person who typed the command."""
    error = RunError(message)
    error.exit_code = 1
    return error
