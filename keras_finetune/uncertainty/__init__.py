from keras_finetune.uncertainty.calibration import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    plot_reliability,
    reliability_curve,
)
from keras_finetune.uncertainty.conformal import (
    conformal_interval,
    conformal_quantile,
    conformal_set,
)
from keras_finetune.uncertainty.coverage import interval_coverage, set_coverage
from keras_finetune.uncertainty.ensembles import ensemble_predict
from keras_finetune.uncertainty.likelihood import (
    fit_precision,
    gaussian_log_likelihood,
    heteroscedastic_log_likelihood,
)
from keras_finetune.uncertainty.mc_predict import mc_predict
from keras_finetune.uncertainty.mc_prediction import MCPrediction
from keras_finetune.uncertainty.risk_coverage import risk_coverage
from keras_finetune.uncertainty.temperature import apply_temperature, fit_temperature

__all__ = [
    "MCPrediction",
    "apply_temperature",
    "brier_score",
    "conformal_interval",
    "conformal_quantile",
    "conformal_set",
    "ensemble_predict",
    "expected_calibration_error",
    "fit_precision",
    "fit_temperature",
    "gaussian_log_likelihood",
    "heteroscedastic_log_likelihood",
    "interval_coverage",
    "mc_predict",
    "negative_log_likelihood",
    "plot_reliability",
    "reliability_curve",
    "risk_coverage",
    "set_coverage",
]
