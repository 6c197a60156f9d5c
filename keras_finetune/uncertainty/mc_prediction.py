"""What several predictions of one output of a model say about their uncertainty."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from keras_finetune import _checks
from keras_finetune.uncertainty import _arrays, _streams, _units
from keras_finetune.uncertainty._arrays import numbers, targets
from keras_finetune.uncertainty._entropy import binary_entropy, entropy
from keras_finetune.uncertainty.likelihood import gaussian_log_likelihood


class MCPrediction:
    """The samples of one output of a model, and measures of their uncertainty.

    Made by `keras_finetune.mc_predict` from one model with dropout, by
    `keras_finetune.uncertainty.ensemble_predict` from several trained models, or from
    samples of any other origin by `MCPrediction.from_samples`. All measures are
    computed in float64, entropies and likelihoods are in nats. Rows are the inputs, in
    their order.

    Uncertainty is *epistemic* where more training data would reduce it: the weights
    are not known, and the samples disagree. It is *aleatoric* where no data would: the
    targets themselves are noisy.

    | | epistemic | aleatoric | total |
    |---|---|---|---|
    | classes | `mutual_information` | `expected_entropy` | `predictive_entropy` |
    | values | `variance` | `1 / tau` | `predictive_variance(tau)` |
    | interval of values | `credible_interval` | | `predictive_interval` |

    What an output stands for (`kind`) decides which measures it has:

    - `"probabilities"`: a distribution over the classes on the last axis;
    - `"logits"`: the scores of which a softmax makes one;
    - `"binary"`: every unit the probability of "yes" of a question of its own;
    - `"binary_logits"`: the scores of which a sigmoid makes these;
    - `"values"`: numbers, as in regression.

    With `p_t` the probabilities in sample `t = 1..T` (a softmax or sigmoid of the
    scores where `kind` says so), and `H` the entropy:

    - `mean` is `(1/T) sum_t p_t`;
    - `predictive_entropy` is `H[mean]`, the total uncertainty;
    - `expected_entropy` is `(1/T) sum_t H[p_t]`, the aleatoric part: what would be
      left if the weights were known;
    - `mutual_information` is their difference, the epistemic part (BALD);
    - `variation_ratio` is `1 - max_c votes_c / T`, where a sample votes for its most
      probable class;
    - `max_probability` is `max_c mean_c`, and `top_class_std` the standard deviation
      over samples of the probability of that class.

    They have the shape `(rows, ...)`: the class axis is gone, or for binary outputs a
    last axis of one.

    Attributes:
        kind: What the output stands for, see above.
        num_samples: Number of samples `T`.
        method: `"prefix once"` where the part of the model before its first random
            layer ran once a batch, `"whole model"` where the model could not be cut,
            `"ensemble"` for several models, `"samples"` where the samples were given.
        seed: The seed that gives the same samples again, or `None`.

    Raises:
        ValueError: By a measure that `kind` does not have, or that needs the samples
            where they were not kept.

    Example:

    >>> samples = [[[0.9, 0.1]], [[0.5, 0.5]]]  # two samples, one input, two classes
    >>> prediction = MCPrediction.from_samples(samples)
    >>> prediction.mean.round(2)
    array([[0.7, 0.3]])
    >>> prediction.mutual_information.round(4)
    array([0.1017])

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    - [Bayesian Active Learning for Classification and Preference Learning](
      https://arxiv.org/abs/1112.5745) (Houlsby et al., 2011)
    - [Deep Bayesian Active Learning with Image Data](
      https://arxiv.org/abs/1703.02910) (Gal et al., 2017)
    - [What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?](
      https://arxiv.org/abs/1703.04977) (Kendall & Gal, 2017), on the two kinds
    - [Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles](
      https://arxiv.org/abs/1612.01474) (Lakshminarayanan et al., 2017)
    - Elementary Applied Statistics (Freeman, 1965), on the variation ratio
    """

    def __init__(
        self,
        statistics: dict[str, Any],
        kind: str,
        num_samples: int,
        method: str,
        seed: int | None,
    ) -> None:
        self._statistics = statistics
        self.kind = kind
        self.num_samples = num_samples
        self.method = method
        self.seed = seed

    @classmethod
    def from_samples(
        cls, samples: Any, kind: _streams.Kind | Literal["auto"] = "auto"
    ) -> MCPrediction:
        """Measure samples of any origin: an ensemble, a Bayesian network, folds.

        Args:
            samples: Array of shape `(samples, rows, ...)`, or a list of predictions
                of the shape `(rows, ...)`.
            kind: What they stand for; `"auto"` takes rows of probabilities that sum
                to 1 for probabilities, and everything else for values.

        Returns:
            The prediction, its samples kept.
        """
        _checks.choice("kind", kind, ("auto", *_streams.KINDS))
        array = _arrays.samples("samples", samples)
        known = _streams.recognize(array, None) if kind == "auto" else kind
        if not _streams.is_kind(array, known):
            raise ValueError(
                "Argument `kind` must be what the samples are. "
                f"Received: kind={kind!r} for samples outside its range"
            )
        stream = _streams.Stream(known, keep=True)
        stream.update(array)
        stream.end_batch()
        return cls(stream.result(), known, len(array), "samples", None)

    def __repr__(self) -> str:
        kept = "kept" if self._statistics["samples"] is not None else "not kept"
        return (
            f"<MCPrediction: {self.num_samples} samples ({kept}) of {self.kind} "
            f"{self.mean.shape}, {self.method}>"
        )

    def __len__(self) -> int:
        return len(self.mean)

    # ------------------------------------------------------------------- all kinds

    @property
    def samples(self) -> np.ndarray:
        """The outputs as the model gave them, shape `(samples, rows, ...)`."""
        if self._statistics["samples"] is None:
            raise ValueError(
                "The samples were not kept. Predict with `keep_samples=True` for "
                "`samples`, `quantile`, `credible_interval` and `log_likelihood`."
            )
        return self._statistics["samples"]

    @property
    def mean(self) -> np.ndarray:
        """Mean over samples: of the probabilities, or of the values."""
        return self._statistics["mean"]

    @property
    def variance(self) -> np.ndarray:
        """Variance over samples, divided by `T`: 0 for a single sample. Epistemic."""
        return self._statistics["squares"] / self.num_samples

    @property
    def std(self) -> np.ndarray:
        """Square root of `variance`."""
        return np.sqrt(self.variance)

    # -------------------------------------------------------------- classification

    @property
    def log_mean(self) -> np.ndarray:
        """Logarithm of `mean`, classes on the last axis; exact for scores.

        `logsumexp_t(log p_t) - log T`, so that a class may have a probability far
        below the smallest float. Two classes, "no" and "yes", for a binary unit.
        """
        self._require_classes("log_mean")
        found = self._statistics
        if self.kind == "logits":
            return found["log_sum"] - np.log(self.num_samples)
        with np.errstate(divide="ignore"):
            if self.kind == "probabilities":
                return np.log(self.mean)
            if self.kind == "binary":
                logs = [np.log1p(-self.mean), np.log(self.mean)]
            else:
                logs = [found["log_tails"], found["log_heads"]]
                logs = [part - np.log(self.num_samples) for part in logs]
        return np.stack([_squeeze(part) for part in logs], axis=-1)

    @property
    def predicted_class(self) -> np.ndarray:
        """The class of the largest mean probability; 0 or 1 for a binary unit."""
        self._require_classes("predicted_class")
        if self._is_binary:
            return _squeeze((self.mean > 0.5).astype("int64"))
        return self.mean.argmax(axis=-1)

    @property
    def predictive_entropy(self) -> np.ndarray:
        """Entropy of the mean, from 0 to the logarithm of the number of classes.

        The total uncertainty.
        """
        self._require_classes("predictive_entropy")
        if self._is_binary:
            return _squeeze(binary_entropy(np.clip(self.mean, 0, 1)))
        return entropy(self.mean)

    @property
    def expected_entropy(self) -> np.ndarray:
        """Mean of the samples' entropies: the aleatoric part of the total."""
        self._require_classes("expected_entropy")
        found = self._statistics["entropies"] / self.num_samples
        return _squeeze(found) if self._is_binary else found

    @property
    def mutual_information(self) -> np.ndarray:
        """Predictive less expected entropy, never negative: the epistemic part."""
        return np.maximum(self.predictive_entropy - self.expected_entropy, 0.0)

    @property
    def variation_ratio(self) -> np.ndarray:
        """Share of the samples that vote against the plurality."""
        self._require_classes("variation_ratio")
        votes = self._statistics["votes"]
        if self._is_binary:
            most = _squeeze(np.maximum(votes, self.num_samples - votes))
        else:
            most = votes.max(axis=-1)
        return 1.0 - most / self.num_samples

    @property
    def max_probability(self) -> np.ndarray:
        """The largest mean probability."""
        self._require_classes("max_probability")
        if self._is_binary:
            return _squeeze(np.maximum(self.mean, 1.0 - self.mean))
        return self.mean.max(axis=-1)

    @property
    def top_class_std(self) -> np.ndarray:
        """Standard deviation of the probability of the class predicted."""
        self._require_classes("top_class_std")
        if self._is_binary:
            return _squeeze(self.std)
        chosen = self.mean.argmax(axis=-1)[..., np.newaxis]
        return np.take_along_axis(self.std, chosen, axis=-1)[..., 0]

    # ------------------------------------------------------------------ regression

    def quantile(self, q: Any) -> np.ndarray:
        """Return quantiles over samples of the outputs as the model gave them.

        Args:
            q: A number in [0, 1], or several, which then are the first axis.
        """
        levels = numbers("q", q)
        if levels.size == 0 or levels.min() < 0 or levels.max() > 1:
            raise ValueError(f"Argument `q` must lie in [0, 1]. Received: q={q!r}")
        return np.quantile(self.samples.astype("float64"), levels, axis=0)

    def credible_interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the central interval that holds a share of the samples.

        It is one of the model's function: epistemic uncertainty alone. Observations
        scatter around the function, so that far fewer than `level` of the targets lie
        inside; for them see `predictive_interval`.

        Args:
            level: The share, in (0, 1).

        Returns:
            Lower and upper ends, each of the shape of the outputs; of the scores, if
            the model gave those.
        """
        level = _arrays.level(level)
        lower, upper = self.quantile([(1 - level) / 2, (1 + level) / 2])
        return lower, upper

    def predictive_interval(
        self, level: float, tau: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the central interval in which an observation is expected.

        `mean -+ z sqrt(1 / tau + variance)` with `z` the quantile `(1 + level) / 2` of
        a standard normal distribution: the interval of the Gaussian that has the mean
        and the variance of the predictive distribution, as for deep ensembles. Needs
        no kept samples. It holds its level as far as errors are Gaussian; a promise
        for any distribution is `keras_finetune.uncertainty.conformal_interval`.

        Args:
            level: Share of the observations, in (0, 1).
            tau: Precision of the observation noise, in the unit of the prediction,
                such as `keras_finetune.uncertainty.fit_precision` finds.

        Returns:
            Lower and upper ends, each of the shape of `mean`.
        """
        level = _arrays.level(level)
        half = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(
            self.predictive_variance(tau)
        )
        return self.mean - half, self.mean + half

    def rescale(self, scale: Any, offset: Any = 0.0) -> MCPrediction:
        """Return the prediction in another unit: `scale * output + offset`.

        For targets that were standardised for training: `rescale(y.std(), y.mean())`,
        or in one argument the scaler that did it, such as scikit-learn's
        `StandardScaler` or `MinMaxScaler`.

        Args:
            scale: A number, or one for each output unit, not 0; or a fitted scaler of
                the targets with an affine `inverse_transform`.
            offset: A number, or one for each output unit.

        Returns:
            A prediction in the new unit.
        """
        self._require_values("rescale")
        scale, offset = _units.affine(scale, offset, self.mean.shape)
        found = self._statistics
        samples = found["samples"]
        if samples is not None:
            samples = samples.astype("float64") * scale + offset
        statistics = {
            "mean": found["mean"] * scale + offset,
            "squares": found["squares"] * scale**2,
            "samples": samples,
        }
        return MCPrediction(
            statistics, self.kind, self.num_samples, self.method, self.seed
        )

    def predictive_variance(self, tau: float) -> np.ndarray:
        """Return the variance of an observation: `1 / tau` plus `variance`.

        The total of aleatoric and epistemic uncertainty.

        Args:
            tau: Precision of the observation noise, in the unit of the prediction.
        """
        self._require_values("predictive_variance")
        tau = _checks.number("tau", tau, minimum=0, exclusive=True)
        return 1.0 / tau + self.variance

    def log_likelihood(self, y: Any, tau: float) -> np.ndarray:
        """Return the log-likelihood of targets, one number a row, in nats.

        `logsumexp_t(-tau/2 |y - f_t|^2) - log T - D/2 log(2 pi) + D/2 log(tau)`; see
        `gaussian_log_likelihood`.

        Args:
            y: Targets, in the unit of the prediction (see `rescale`).
            tau: Precision of the observation noise, in the same unit.
        """
        self._require_values("log_likelihood")
        return gaussian_log_likelihood(y, self.samples, tau)

    def rmse(self, y: Any) -> float:
        """Return the root mean squared error of `mean`, over all rows and units.

        Args:
            y: Targets, in the unit of the prediction (see `rescale`).
        """
        self._require_values("rmse")
        y = targets("y", y, self.mean.shape)
        return float(np.sqrt(np.mean((y - self.mean) ** 2)))

    # --------------------------------------------------------------------- helpers

    @property
    def _is_binary(self) -> bool:
        return self.kind.startswith("binary")

    def _require_classes(self, measure: str) -> None:
        if self.kind == "values":
            raise ValueError(
                f"`{measure}` is a measure of class probabilities, and this output "
                "holds values. If it holds scores or probabilities, say so: "
                "`mc_predict(..., output='logits')`, 'probabilities', 'binary' or "
                "'binary_logits'."
            )

    def _require_values(self, measure: str) -> None:
        if self.kind != "values":
            raise ValueError(
                f"`{measure}` is a measure of regression, and this output holds "
                f"{self.kind}. If it does not: `mc_predict(..., output='values')`."
            )


def _squeeze(array: np.ndarray) -> np.ndarray:
    """Return `array` without a last axis of one, unless it is the only axis."""
    return array[..., 0] if array.ndim > 1 and array.shape[-1] == 1 else array
