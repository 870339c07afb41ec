"""What a run leaves to look at: videos, plots, and one page that holds them."""

from lssvwm.agents.report.page import Clip, Evaluated, Report, write_report
from lssvwm.agents.report.plots import Curve, plot_curves, plot_returns, read_curves
from lssvwm.worldmodel.reporting.video import Panel, encode_png, filmstrip, montage, write_mp4

__all__ = [
    "Clip",
    "Curve",
    "Evaluated",
    "Panel",
    "Report",
    "encode_png",
    "filmstrip",
    "montage",
    "plot_curves",
    "plot_returns",
    "read_curves",
    "write_mp4",
    "write_report",
]
