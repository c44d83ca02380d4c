"""Tables of the chapter on the fast engine."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from molkit.figures.tables import html_table, with_interval
from molkit.studies.edm_engine import PairedComparison
from molkit.studies.edm_speed import ParityRow, SpeedRow

if TYPE_CHECKING:
    from IPython.display import HTML

LABELS = {
    "padded": "padded pairs, float32",
    "real_edges": "real pairs, float32",
    "real_edges_bfloat16": "real pairs, bfloat16 products",
    "fused_float32": "kernel, float32",
    "fused_bfloat16": "kernel, bfloat16 products",
    "readable": "as written (real pairs), float32",
    "float32": "kernel, float32",
    "bfloat16": "kernel, bfloat16 products",
}


def benchmark_table(report: Mapping[str, Any]) -> "HTML":
    """Speed-ups of the stored benchmark with their range over rounds, and the share of the machine's limit."""
    request, machine = report["request"], report["machine"]
    rows = []
    for name in report["training"]:
        cells = [LABELS.get(name, name)]
        for task in ("training", "sampling"):
            entry = report[task].get(name, {})
            if "speedup" not in entry:
                cells += ["–", "–"]
                continue
            ratio = entry["speedup"]
            cells.append(f"{ratio['median']:.1f} ×\n[{ratio['min']:.1f}, {ratio['max']:.1f}]")
            share = entry.get("share_of_limit")
            cells.append("–" if share is None else f"{100 * share:.0f} %")
        rows.append(tuple(cells))
    return html_table(
        ("", "training step", "of the limit", "sampling call", "of the limit"),
        rows,
        caption=f"Width {request['width']}, {request['layers']} layers, {request['molecules']} QM9 molecules, median "
        f"and range of {request['rounds']} rounds, {report['clock']}; {machine['processor']}, one thread, load "
        f"{machine['load_before']:.0f} from other work. The limit is the time of the matrix products and activations "
        "alone, at the rates of PyTorch's own calls.",
    )


def parity_table(rows: Sequence[ParityRow]) -> "HTML":
    """Relative error of the predicted noise by execution."""
    names = list(rows[0].errors)
    return html_table(
        ("", *[LABELS[name] for name in names]),
        [(row.network, *[f"{row.errors[name]:.1e}" for name in names]) for row in rows],
        caption=f"Error of the predicted noise over its norm, against the readable network in float64; "
        f"{rows[0].num_molecules} molecules of the test split at random steps.",
    )


def speed_table(rows: Sequence[SpeedRow]) -> "HTML":
    """CPU milliseconds a molecule here and now."""
    return html_table(
        ("", "call (ms)", "faster", "gradient (ms)", "faster"),
        [
            (LABELS[r.execution], f"{r.call:.2f}", f"{r.call_ratio:.1f} ×", f"{r.step:.2f}", f"{r.step_ratio:.1f} ×")
            for r in rows
        ],
        caption="CPU milliseconds for each molecule, measured while this page was made, one thread; the ratios are to "
        "the network as it is written, which already leaves out padding.",
    )


def trajectories_table(comparisons: Mapping[str, PairedComparison]) -> "HTML":
    """The same trajectories with both kinds of products."""
    rows = []
    for label, c in comparisons.items():
        for what, shares, difference in (
            ("molecules", c.molecule_stability, c.molecule_difference),
            ("atoms", c.atom_stability, c.atom_difference),
        ):
            d = difference.scaled(100.0)
            rows.append(
                (
                    f"{label}: {what}",
                    f"{c.num_chains:,}",
                    f"{100 * shares[0]:.1f} %",
                    f"{100 * shares[1]:.1f} %",
                    with_interval(d, signed=True, between=" "),
                    f"{c.discordant[0]} / {c.discordant[1]}" if what == "molecules" else "",
                )
            )
    return html_table(
        ("", "chains", "stable, float32", "stable, bfloat16", "difference (points)", "lost / gained"),
        rows,
        caption="Each chain run twice with the same noise; 95 % intervals of the difference by bootstrap over pairs. "
        f"{next(iter(comparisons.values())).num_calls} calls a chain in the first rows.",
    )
