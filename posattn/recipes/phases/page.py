"""The page of `posattn run phases`."""

from typing import Any

from posattn.recipes.phases.settings import Descent, FlowSetting, PhasesConfig
from posattn.runs.page import Lines, Section, Table, to_plain
from posattn.runs.seeds import mean_std_text

SYMBOLS = {
    "num_patches": "D",
    "set_size": "C",
    "noise_rate": "q",
    "linear": "ν",
    "diagonal": "exp(σ_A) − 1",
    "scale": "κ",
}
TIME: dict[str, Any] = {"x_label": "time (rate times steps)", "x_log": True}


def sections(config: PhasesConfig, numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The three sections of the page."""
    return to_plain(
        [
            flow_section(numbers["flow"], config.flow),
            descent_section(numbers["descent"], config.descent),
            scan_section(numbers["scans"], config),
        ]
    )


def flow_section(numbers: dict[str, Any], setting: FlowSetting) -> Section:
    """The flow alone."""
    when = "is not seen" if numbers["transition"] is None else f"comes at t = {numbers['transition']:.3g}"
    claim = (
        f"The loss stays at {numbers['plateau']:.3f}, the lowest that v alone reaches, until the sets are found: the "
        f"transition {when}. At t = {numbers['t'][-1]:.3g} γ is {numbers['gamma'][-1]:.2f}, "
        f"ρ {numbers['rho'][-1]:.2f}, the loss {numbers['loss'][-1]:.2g} and the accuracy "
        f"{numbers['accuracy'][-1]:.4f} (D = {setting.num_patches}, C = {setting.set_size}, "
        f"q = {setting.noise_rate:g})."
    )
    caption = "Loss and accuracy are those of the population, estimated on samples that the flow does not descend on."
    if numbers["stopped"]:
        caption += f" It ends early: {numbers['stopped']}."
    return Section(
        "The plateau and the transition",
        claim,
        [
            Lines(
                "Loss and accuracy of the population flow",
                "t",
                {"loss": "loss", "accuracy": "accuracy"},
                caption=caption,
                **TIME,
            ),
            Lines("The scores", "t", {"γ, inside a set": "gamma", "ρ, outside": "rho"}, **TIME),
            Lines("The value vector", "t", {"α": "alpha"}, **TIME),
        ],
        at="flow",
    )


def descent_section(numbers: dict[str, Any], descent: Descent) -> Section:
    """SGD on top of the flow."""
    seen = [time for time in numbers["transition"] if time is not None]
    setting, flow_time = descent.flow, numbers["flow"]["transition"]
    claim = (
        "SGD on small batches follows the flow of the population: its transition is "
        f"{f'at t = {mean_std_text(seen, 0)}' if seen else 'not seen'} ({len(seen)} of {descent.seeds} seeds), the "
        f"flow's {'is not seen' if flow_time is None else f'at {flow_time:.0f}'} (D = {setting.num_patches}, "
        f"C = {setting.set_size}, q = {setting.noise_rate:g}, d = {descent.dim}, batches of {descent.batch_size}, rate "
        f"{descent.rate:g}; the times of SGD are linear between measurements)."
    )
    labels = {"loss": "loss", "gamma": "γ, mean of A inside the sets", "alpha": "α, v along w*"}
    items = [
        Lines(
            f"SGD and the population flow: {label}",
            "t",
            {"population flow": f"flow.{name}"}
            | {f"SGD, seed {seed}": f"seeds.{seed}.{name}" for seed in numbers["seeds"]},
            y_label=label,
            **TIME,
        )
        for name, label in labels.items()
    ]
    association = Lines(
        "Patch association of SGD",
        "t",
        {"association": "mean.association"},
        {"association": "std.association"},
        y_label="patch association",
        caption=f"Mean and standard deviation over {descent.seeds} seeds: the scores are in the right order long "
        "before they are large enough to lower the loss.",
        **TIME,
    )
    return Section("SGD and the flow", claim, [*items, association], at="descent")


def scan_section(numbers: dict[str, Any], config: PhasesConfig) -> Section:
    """How the transition time scales."""
    rejected = [SYMBOLS[name] for name, found in numbers.items() if found["law"] and found["law"]["rejected"]]
    laws = [
        f"{found['law']['exponent']:.2f} in {SYMBOLS[name]}"
        for name, found in numbers.items()
        if found["law"] and not found["law"]["rejected"]
    ]
    claim = (
        f"The transition time is no power law in {', '.join(rejected) or 'none of the numbers varied'} (lack-of-fit "
        f"test at 1%, given the scatter over seeds); not rejected, with its exponent: {', '.join(laws) or 'none'}. "
        "The local powers, between neighbouring values, are in the table."
    )
    base, scan = config.flow, config.scan
    table = Table(
        "Local powers of the transition time",
        ["varied", "values", "local powers", "p of a power law", "power, 95% interval"],
        [scan_row(name, found) for name, found in numbers.items()],
        f"Around D = {base.num_patches}, C = {base.set_size}, q = {base.noise_rate:g}, p = {base.power}, "
        f"ν = {base.linear:g}, σ_A = {base.diagonal:g}; {scan.seeds} seeds of {base.samples} samples. The transition: "
        f"the loss falls below {scan.level:g} of the plateau's. v moves on a clock κ² times as fast as A's.",
    )
    figures = [scan_figure(name, found) for name, found in numbers.items() if found["x"]]
    return Section("How long the plateau lasts", claim, [*figures, table], at="scans")


def scan_figure(name: str, found: dict[str, Any]) -> Lines:
    """The transition time against one number, with the power law where it is not rejected."""
    law = {"power law": f"{name}.fit"} if found["fit"] else {}
    return Lines(
        f"Transition time against {SYMBOLS[name]}",
        f"{name}.x",
        {"measured": f"{name}.mean", **law},
        {"measured": f"{name}.std"},
        x_label=SYMBOLS[name],
        y_label="transition time",
        x_log=True,
        y_log=True,
    )


def scan_row(name: str, found: dict[str, Any]) -> list[str]:
    """One row of the table of powers."""
    local = " ".join(f"{power:.2f}" for power in found["local"]) or "too few seen"
    row = [SYMBOLS[name], " ".join(f"{x:.4g}" for x in found["x"]) or "none", local]
    if (law := found["law"]) is None:
        return [*row, "-", "too few seen"]
    p_value = "not tested, one seed" if law["p_value"] is None else f"{law['p_value']:.2g}"
    interval = f"{law['exponent']:.2f} ({law['low']:.2f} to {law['high']:.2f})"
    return [*row, p_value, "rejected" if law["rejected"] else interval]
