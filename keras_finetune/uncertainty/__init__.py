from .calibration import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    plot_reliability,
    reliability_curve,
)
from .likelihood import gaussian_log_likelihood, heteroscedastic_log_likelihood
from .mc_predict import mc_predict
from .mc_prediction import MCPrediction
from .risk_coverage import risk_coverage
from .temperature import apply_temperature, fit_temperature

__all__ = [
    "MCPrediction",
    "apply_temperature",
    "brier_score",
    "expected_calibration_error",
    "fit_temperature",
    "gaussian_log_likelihood",
    "heteroscedastic_log_likelihood",
    "mc_predict",
    "negative_log_likelihood",
    "plot_reliability",
    "reliability_curve",
    "risk_coverage",
]
