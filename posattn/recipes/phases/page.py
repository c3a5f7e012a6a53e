"""The page of `posattn run phases`."""

from typing import Any

from posattn.recipes.phases.settings import Descent, FlowSetting, PhasesConfig
from posattn.runs.page import Lines, Section, Table, mean_lines
from posattn.runs.seeds import averaged_text, count_text, mean_std_text

SYMBOLS = {
    "num_patches": "D",
    "set_size": "C",
    "noise_rate": "q",
    "linear": "ν",
    "diagonal": "exp(σ_A) − 1",
    "scale": "κ",
}
TIME: dict[str, Any] = {"x_label": "time (rate times steps)", "x_log": True}


def flow_section(numbers: dict[str, Any], setting: FlowSetting, level: float) -> Section:
    """The flow alone."""
    when = "is not seen" if numbers["transition"] is None else f"comes at t = {numbers['transition']:.3g}"
    claim = (
        f"The plateau, the lowest loss that v alone reaches, is at {numbers['plateau']:.3f}; the transition, where the "
        f"loss falls below {level:g} of it, {when}. At t = {numbers['t'][-1]:.3g} γ is {numbers['gamma'][-1]:.2f}, "
        f"ρ {numbers['rho'][-1]:.2f}, the loss {numbers['loss'][-1]:.2g} and the accuracy "
        f"{numbers['accuracy'][-1]:.4f} ({task_text(setting)})."
    )
    caption = "Loss and accuracy are those of the population, estimated on samples that the flow does not descend on."
    if numbers["stopped"]:
        caption += f" It ends early: {numbers['stopped']}."
    losses = {"loss": "loss", "accuracy": "accuracy"}
    figures = [
        Lines("Loss and accuracy of the population flow", "t", losses, caption=caption, **TIME),
        Lines("The scores", "t", {"γ, inside a set": "gamma", "ρ, outside": "rho"}, **TIME),
        Lines("The value vector", "t", {"α": "alpha"}, **TIME),
    ]
    return Section("The plateau and the transition", claim, [*figures], at="flow")


def task_text(setting: FlowSetting) -> str:
    """The task of a setting."""
    return f"D = {setting.num_patches}, C = {setting.set_size}, q = {setting.noise_rate:g}"


def descent_section(numbers: dict[str, Any], descent: Descent) -> Section:
    """SGD on top of the flow."""
    seen = [time for time in numbers["transition"] if time is not None]
    flow_time = numbers["flow"]["transition"]
    claim = (
        "SGD on small batches on top of the flow of the population: the transition of SGD is "
        f"{f'at t = {mean_std_text(seen, 0)}' if seen else 'not seen'} ({len(seen)} of {descent.seeds} seeds), the "
        f"flow's {'is not seen' if flow_time is None else f'at {flow_time:.0f}'} ({task_text(descent.flow)}, "
        f"d = {descent.dim}, batches of {descent.batch_size}, rate {descent.rate:g}; the times of SGD are linear "
        "between measurements)."
    )
    labels = {"loss": "loss", "gamma": "γ, mean of A inside the sets", "alpha": "α, v along w*"}
    curves = [
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
    association = mean_lines(
        "Patch association of SGD",
        "t",
        {"association": "*.association"},
        y_label="patch association",
        caption=f"{averaged_text('Mean and standard deviation', descent.seeds)}. "
        f"{ordered_text(numbers['ordered'])}",
        **TIME,
    )
    return Section("SGD and the flow", claim, [*curves, association], at="descent")


def ordered_text(times: list[float | None]) -> str:
    """When the scores of SGD are in the right order, of each seed, for comparison with the transition."""
    seen = [t for t in times if t is not None]
    when = f"first 1, the scores in the right order, at t = {mean_std_text(seen, 0)}" if seen else "never 1"
    return f"It is {when} ({len(seen)} of {len(times)} seeds), at the times measured."


def scan_section(numbers: dict[str, Any], config: PhasesConfig) -> Section:
    """How the transition time scales."""
    laws = {SYMBOLS[name]: found["law"] for name, found in numbers.items() if found["law"]}
    claim = (
        f"Is the transition time a power law? {verdicts(laws)}. The local powers, between neighbouring values, are in "
        "the table."
    )
    base, scan = config.flow, config.scan
    table = Table(
        "Local powers of the transition time",
        ["varied", "values", "local powers", "p of a power law", "power, 95% interval"],
        [scan_row(name, found) for name, found in numbers.items()],
        f"Around {task_text(base)}, p = {base.power}, ν = {base.linear:g}, σ_A = {base.diagonal:g}; "
        f"{count_text(scan.seeds, 'seed')} of {base.samples} samples. The transition: the loss falls below "
        f"{scan.level:g} of the plateau's. v moves on a clock κ² times as fast as A's.",
    )
    figures = [scan_figure(name, found) for name, found in numbers.items() if found["x"]]
    return Section("How long the plateau lasts", claim, [*figures, table], at="scans")


def verdicts(laws: dict[str, dict[str, Any]]) -> str:
    """What the test of each power law says, by symbol."""
    rejected = [symbol for symbol, law in laws.items() if law["rejected"]]
    powers = {symbol: f"{law['exponent']:.2f} in {symbol}" for symbol, law in laws.items()}
    untested = [powers[symbol] for symbol, law in laws.items() if law["p_value"] is None]
    kept = [powers[symbol] for symbol in laws if symbol not in rejected and powers[symbol] not in untested]
    said = {
        "rejected by the lack-of-fit test at 1%, given the scatter over seeds, in": rejected,
        "not rejected, with the exponent": kept,
        "not tested, with the exponent": untested,
    }
    return (
        "; ".join(f"{what} {', '.join(which)}" for what, which in said.items() if which)
        or "too few were seen"
    )


def scan_figure(name: str, found: dict[str, Any]) -> Lines:
    """The transition time against one number, with the power law where it is not rejected."""
    return Lines(
        f"Transition time against {SYMBOLS[name]}",
        f"{name}.x",
        {"measured": f"{name}.mean"} | ({"power law": f"{name}.fit"} if found["fit"] else {}),
        {"measured": f"{name}.std"},
        SYMBOLS[name],
        "transition time",
        x_log=True,
        y_log=True,
        caption="Geometric mean over seeds; bars: standard deviation.",
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
