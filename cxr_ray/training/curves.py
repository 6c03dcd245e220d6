"""Learning curves of one member as a PNG that can be read in grey print: lines differ by dash and mark, not by hue."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Panels from the left: what stands at the vertical axis, and the keys of an epoch with their names.
_PANELS = (
    ("loss", {"train_loss": "training", "validation_loss": "validation"}),
    ("validation", {"macro_auroc": "macro AUROC", "map": "mean average precision"}),
    ("learning rate", {"learning_rate": "learning rate"}),
)
_STYLES: tuple[dict[str, str], ...] = (
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "0.45", "linestyle": "--", "marker": "s"},
)


def draw_curves(epochs: Sequence[Mapping[str, Any]], *, title: str, best_epoch: int) -> bytes:
    """PNG of the epochs of one member, which have a `number` from 0; a value of None leaves a gap."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: {len(epochs)} epochs; the dotted line is the best, {best_epoch + 1}")
    steps = [int(epoch["number"]) + 1 for epoch in epochs]
    for axes, (label, lines) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for (key, name), style in zip(lines.items(), _STYLES, strict=False):
            values = [float("nan") if epoch.get(key) is None else float(epoch[key]) for epoch in epochs]
            axes.plot(steps, values, label=name, markersize=4, linewidth=1.2, **style)
        _dress(axes, label, best_epoch + 1, legend=len(lines) > 1)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _dress(axes: Axes, label: str, best: int, *, legend: bool) -> None:
    """Names of the axes, whole epochs, and the best one."""
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.axvline(best, color="black", linestyle=":", linewidth=1)
    axes.grid(color="0.9")
    if legend:
        axes.legend(frameon=False)
