"""The last collective of this process, from torch's flight recorder.

It records for NCCL and, as of torch 2.14, for gloo, without being asked to (TORCH_FR_BUFFER_SIZE=0
turns it off). Its functions are private to torch: everything of theirs that toque uses is here.
"""

from __future__ import annotations

import json
from typing import Any


def last_collective() -> str:
    """ "gloo:all_reduce 12 [512, 3]": its kind, number in its group and sizes; "" if not recorded.

    The number says who is behind: all ranks count the collectives of a group alike.
    """
    try:
        from torch._C import _distributed_c10d
    except ImportError:
        return ""
    entries: list[dict[str, Any]] = []
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        dump = getattr(_distributed_c10d, name, None)
        if dump is not None:
            entries += json.loads(dump()).get("entries", [])
    if not entries:
        return ""
    last = max(entries, key=lambda entry: entry["time_created_ns"])
    sizes = last["input_sizes"]
    of = f" {sizes[0]}" if len(sizes) == 1 else f" {len(sizes)} tensors" if sizes else ""
    return f"{last['profiling_name']} {last['collective_seq_id']}{of}"
