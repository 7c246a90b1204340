"""`slds merge`: what was merged, and its distance from base + adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from headnote_cli.screen.console import facts_table, size

if TYPE_CHECKING:
    from headnote_cli.merging.check import CheckReport
    from headnote_cli.merging.command import MergeReport
    from headnote_cli.merging.verification import Distance, Verification


def merge_view(report: MergeReport) -> RenderableType:
    """What was merged, and how it was checked."""
    rows = {
        "base": report.base,
        "adapter": ", then ".join(str(adapter) for adapter in report.adapters),
        "output": f"{report.output} ({size(report.bytes)}, {report.dtype})",
        "tensors": f"{report.merged} merged, {report.copied} as they were",
        "verified": _verified(report.verification),
    }
    trained = report.verification.trained if report.verification else None
    if trained is not None:
        rows["trained in 4 bits"] = f"{_apart(trained)}, from the 4-bit model that was trained; --onto nf4 is nearer"
    return facts_table(rows)


def _verified(check: Verification | None) -> str:
    if check is None:
        return "not asked for"
    return f"{check.how}: {_apart(check.distance)}; {check.tolerance:g} is allowed"


def _apart(distance: Distance) -> str:
    apart = f"logits are {distance.relative_l2:.2g} away (relative L2, {distance.max_abs:.2g} at most)"
    if distance.loss is None or distance.merged_loss is None:
        return apart.replace("logits are ", "")
    return f"{apart}, loss {distance.loss:.4f} → {distance.merged_loss:.4f}"


def check_view(report: CheckReport) -> RenderableType:
    """The result of checking a merged folder."""
    state = "; ".join(report.faults) or f"all {report.files} files are as they were written"
    return facts_table({"folder": str(report.folder), "state": state})
