"""What the ranks other than 0 have in place of the log: nothing is written.

They keep step with rank 0, which alone touches the run folder, but for their own part of a
checkpoint (see `saving`).
"""

from __future__ import annotations

from toque.train.logs.log import Row


class SilentLog:
    """MetricsLog without a file: rows are remembered, for what is computed from them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, row: Row) -> None:
        self.rows.append(row)

    def cut(self, images_seen: int) -> None:
        self.rows = [row for row in self.rows if row["images_seen"] <= images_seen]

    def close(self) -> None:
        pass
