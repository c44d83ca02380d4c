"""The stamp at the end of a chapter, and the notice at the head of one that failed."""

from collections.abc import Mapping

from molkit.book.cache import RunRecord


def stamp(record: RunRecord, defaults: Mapping[str, str]) -> str:
    """Markdown admonition that says how the page above it was made.

    `defaults` are the values written in the parameters cell; those of the run stand before them.
    """
    values = {**defaults, **{name: repr(value) for name, value in record.parameters.items()}}
    rows = {
        "Profile": record.profile,
        "Parameters": ", ".join(f"`{name} = {value}`" for name, value in values.items()) or "none",
        "Run": f"{record.finished.replace('T', ' ').removesuffix('+00:00')} UTC, {duration(record.seconds)}, "
        f"peak memory {memory(record.peak_memory_mib)}",
        "Commit": commit_in_words(record.commit, record.dirty),
        "Versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "Machine": f"{record.machine}; one thread",
    }
    return _table("How this page was made", rows)


def unexecuted_stamp(profile: str) -> str:
    """The stamp of a chapter that was not run: its page shows the outputs kept in the repository."""
    note = (
        f"This chapter was not run with the `{profile}` profile. It shows the outputs kept in the repository (`smoke`)."
    )
    return f":::{{admonition}} How this page was made\n:class: molkit-stamp\n{note}\n:::\n"


def failure_notice(record: RunRecord, cell: int | None) -> str:
    """Markdown admonition for the head of a chapter whose run failed."""
    where = f" in code cell {cell}" if cell else ""
    text = " ".join(record.error.split()).replace("`", "'")
    return (
        ":::{error}\n"
        f"This chapter failed{where} when the book was built with the `{record.profile}` profile. "
        "What follows is what it had produced by then.\n\n"
        f"`{text[:500]}`\n:::\n"
    )


def commit_in_words(commit: str | None, dirty: bool | None) -> str:
    """`1a2b3c4`, with a remark when files had been changed since."""
    if commit is None:
        return "not known (no git repository)"
    return f"`{commit[:10]}`" + (" with uncommitted changes" if dirty else "")


def duration(seconds: float) -> str:
    """41 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    large, small, words = (
        (whole // 60, whole % 60, "min s") if whole < 3600 else (whole // 3600, whole % 3600 // 60, "h min")
    )
    first, second = words.split()
    return f"{large} {first} {small} {second}" if small else f"{large} {first}"


def memory(mebibytes: float) -> str:
    """620 MiB, 1.8 GiB."""
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"


def _table(title: str, rows: Mapping[str, str]) -> str:
    body = "\n".join(f"| {name} | {text.replace('|', '/')} |" for name, text in rows.items())
    return f":::{{admonition}} {title}\n:class: molkit-stamp\n\n| | |\n|:--|:--|\n{body}\n:::\n"
