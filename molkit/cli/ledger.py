"""`molkit ledger`: the claims and what was measured for them."""

import click


@click.command()
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print every selected claim with its result and verdict as JSON.")
def ledger(prefix: str, as_json: bool) -> None:
    """Show the claims whose id begins with PREFIX (all without one): published, ours, verdict."""
    from molkit.claims.table import LedgerTable, ledger_rows

    rows = ledger_rows(prefix)
    if as_json:
        click.echo(_as_json(rows))
        return
    click.echo(repr(LedgerTable(tuple(rows), {})))
    click.echo(_summary(rows))


def _as_json(rows: list) -> str:
    import json
    from dataclasses import asdict

    entries = [
        {
            "claim": asdict(row.claim),
            "result": None if row.measurement is None else asdict(row.measurement),
            "verdict": row.verdict.word,
            "reason": row.verdict.reason,
            "stale": list(row.verdict.stale),
        }
        for row in rows
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False)


def _summary(rows: list) -> str:
    from molkit.claims.table import count_verdicts

    counts = count_verdicts(rows)
    return f"\n{len(rows)} claims: " + ", ".join(f"{number} {word}" for word, number in counts.items())
