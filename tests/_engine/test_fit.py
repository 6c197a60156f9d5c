"""Looking for the `fit` that runs costs it nothing."""

import weakref

from keras_finetune._engine import fit


class Thing:
    """What a `fit` lets go of."""


class Model:
    def fit(self, look):
        thing = Thing()
        alive = weakref.ref(thing)
        found = look(self)
        assert found is not None
        del thing, found
        return alive() is not None


def test_what_fit_lets_go_of_is_not_kept_alive():
    # An iterator of TensorFlow that goes late may stop the next epoch for .3 s.
    assert not Model().fit(fit.frame_of_fit)
    assert not Model().fit(fit.variables_of_fit)
    assert not Model().fit(fit.callbacks_of_fit)
