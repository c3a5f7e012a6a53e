"""The settings of `posattn run phases`."""

from dataclasses import dataclass, field, replace

from posattn.recipes import recipe


@dataclass(frozen=True)
class FlowSetting:
    """A population flow from A_ij = 0 and v = α₀ w*."""

    num_patches: int = 480
    """D"""
    set_size: int = 8
    """C"""
    noise_rate: float = 0.25
    """q"""
    power: int = 3
    """p"""
    linear: float = 0.01
    """ν"""
    diagonal: float = 2.0
    """σ_A"""
    scale: float | None = None
    """κ; left out, D"""
    alpha: float = 0.005
    """α₀"""
    samples: int = 4000
    """Of the population, drawn once"""
    t_end: float = 1e10
    rtol: float = 1e-6
    """Tolerance of a step of the solver"""


@dataclass(frozen=True)
class Descent:
    """SGD exact in law, in a setting whose plateau it crosses in affordable steps; its flow is drawn beside it."""

    flow: FlowSetting = field(
        default_factory=lambda: FlowSetting(
            num_patches=128, scale=1.0, alpha=0.64, samples=20_000, t_end=25_000.0
        )
    )
    dim: int = 64
    """d, with σ = 1/√d"""
    rate: float = 2.0
    """η: time is η times the number of steps"""
    batch_size: int = 64
    seeds: int = 4
    measurements: int = 40
    test_samples: int = 2048


@dataclass(frozen=True)
class Scan:
    """The values of each number of the setting that is varied, the others held; all within q·D > C².

    A number without values is left out.
    """

    num_patches: tuple[int, ...] = (320, 480, 640, 960, 1280, 1920)
    set_size: tuple[int, ...] = (4, 5, 6, 8, 10)
    noise_rate: tuple[float, ...] = (0.15, 0.2, 0.25, 0.35, 0.5)
    linear: tuple[float, ...] = (0.0025, 0.005, 0.01, 0.02, 0.04)
    diagonal: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    scale: tuple[float, ...] = (1.0, 20.0, 480.0)
    seeds: int = 4
    """Populations drawn of each value"""
    level: float = 0.75
    """The transition is where the loss falls below this share of the plateau's"""


@dataclass(frozen=True)
class PhasesConfig:
    """The flow shown, the numbers varied, the descent beside it."""

    flow: FlowSetting = field(default_factory=FlowSetting)
    scan: Scan = field(default_factory=Scan)
    descent: Descent = field(default_factory=Descent)
    seed: int = 0


@recipe
def phases(smoke: bool = False) -> PhasesConfig:
    """The population flow's plateau and transition, how the transition time scales, and SGD on top of the flow.

    Claim: the loss stays at the least that v alone reaches until γ has grown, then falls; SGD follows the flow; the
    plateau lasts longer with larger D, q and ν, less long with larger C and σ_A, and as long whatever κ.
    Command: posattn run phases
    Time: 170 s of CPU time (2 CPU cores shared with much other work; 18 minutes there with --jobs 1).
    Expected, seeds 0 to 3: plateau 0.494 and transition at t = 7.3e5 (D = 480, C = 8, q = 0.25); SGD at D = 128 has
    its transition at 9269 ± 856, the flow at 9334; powers with 95% intervals: D 4.63 (4.50 to 4.77), C -2.84 (-2.96
    to -2.71), q 2.18 (2.07 to 2.28), ν 0.68 (0.56 to 0.81), exp(σ_A) - 1 -0.66 (-0.70 to -0.62), κ 0.00. Only C and q
    come near a power law: the local power goes from 3.9 to 5.2 in D and from 0.2 to 1.5 in ν.
    """
    if not smoke:
        return PhasesConfig()
    small = FlowSetting(num_patches=96, samples=300, t_end=2e4, rtol=1e-4)
    return PhasesConfig(
        small,
        Scan((80, 96, 112), (), (), (), (), (), seeds=1),
        Descent(
            replace(small, scale=1.0, alpha=0.64, t_end=400.0), seeds=2, measurements=8, test_samples=256
        ),
    )
