"""What the page of a merged run says of the runs that it was made of."""

from typing import Any

from posattn.runs.page import Section, Table


def origins_section(origins: list[dict[str, Any]], shared: dict[str, str], anew: list[str]) -> Section:
    """A row per run, and where the numbers come from that belong to no seed."""
    rows = [
        [
            origin["run"],
            ", ".join(map(str, origin["seeds"])),
            ", ".join(origin["units"]),
            origin["device"],
            str((origin["versions"] or {}).get("torch")),
            (origin["git_commit"] or "unknown")[:12],
            origin["command"],
        ]
        for origin in origins
    ]
    claim = (
        f"{len(origins)} runs of equal settings are pooled; each training took its seconds on its own device."
    )
    if shared:
        claim += (
            f" Without a seed: {', '.join(f'{name} from {run}' for name, run in sorted(shared.items()))}."
        )
    if anew:
        claim += f" Computed on the merging machine: {', '.join(anew)}."
    return Section(
        "Where the numbers come from",
        claim,
        [Table("Merged runs", ["run", "seeds", "parts", "device", "torch", "commit", "command"], rows)],
    )
