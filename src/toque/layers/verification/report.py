"""What verify found: a dataclass, a table for the terminal, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["passed", "failed", "not supported"]


@dataclass(frozen=True)
class Finding:
    """The answer of one check."""

    check: str
    status: Status
    cause: str = ""
    smallest: str = ""
    """Shapes of the smallest input on which the check fails."""
    seconds: float = 0.0


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that one forward keeps for backward."""

    saver: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    is_own: bool
    """False for inputs and parameters, which are alive anyway."""


@dataclass(frozen=True)
class Report:
    """All findings for one layer."""

    subject: str
    inputs: str
    findings: tuple[Finding, ...]
    saved: tuple[SavedTensor, ...]
    torch_version: str

    @property
    def passed(self) -> bool:
        """True when no check failed; what is not supported is listed, not counted."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == "failed")

    @property
    def unsupported(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == "not supported")

    @property
    def saved_bytes(self) -> int:
        """Bytes kept for backward beside inputs and parameters."""
        return sum(tensor.num_bytes for tensor in self.saved if tensor.is_own)

    def finding(self, check: str) -> Finding:
        """The finding of one check by its name."""
        return next(finding for finding in self.findings if finding.check == check)

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(
            {"passed": self.passed, "saved_bytes": self.saved_bytes, **dataclasses.asdict(self)},
            indent=2,
        )

    def __str__(self) -> str:
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines = [f"{self.subject} on {self.inputs}, torch {self.torch_version}: {self.summary()}"]
        for finding in self.findings:
            line = f"  {finding.status:13} {finding.check:{width}}  {finding.cause}"
            lines.append(line.rstrip())
            if finding.smallest:
                lines.append(f"  {'':13} {'':{width}}  smallest failing input: {finding.smallest}")
        return "\n".join(lines)

    def summary(self) -> str:
        """How many checks passed, failed and were not supported, and the bytes saved."""
        passed = len(self.findings) - len(self.failures) - len(self.unsupported)
        return (
            f"{passed} passed, {len(self.failures)} failed, {len(self.unsupported)} not supported; "
            f"{self.saved_bytes:,} bytes saved for backward"
        )

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self.subject} on {self.inputs}", caption=self.summary())
        for heading in ("check", "answer", "likely cause, or what was seen"):
            table.add_column(heading, overflow="fold")
        colours = {"passed": "green", "not supported": "yellow", "failed": "bold red"}
        for tensor in self.saved:
            if tensor.is_own:
                shape = "x".join(map(str, tensor.shape)) or "scalar"
                table.add_row(
                    "saved", f"{tensor.num_bytes:,} B", f"{shape} {tensor.dtype} by {tensor.saver}"
                )
        order = list(colours)  # what failed stands last, beside the summary
        for finding in sorted(self.findings, key=lambda found: order.index(found.status)):
            text = finding.cause
            if finding.smallest:
                text += f"\nsmallest failing input: {finding.smallest}"
            status = Text(finding.status, style=colours[finding.status])
            table.add_row(finding.check, status, Text(text))
        return table
