"""One process, many fits: nothing of the earlier ones is left.

`benchmarks/soak.py` measures memory over 200 fits; here what would fill it is counted.
"""

import gc

import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze

pytestmark = pytest.mark.slow

GROUPS = ["low", "middle", "head"]


@pytest.mark.backend("tensorflow")
def test_traces_do_not_accumulate():
    from tensorflow.python.framework import ops

    model = reference.compile_model(reference.make_model(), "adam")

    def fit_and_count():
        callbacks = [GradualUnfreeze(GROUPS, every=1), DiscriminativeLR(groups=GROUPS)]
        reference.fit(model, reference.make_data(), epochs=3, callbacks=callbacks)
        gc.collect()
        graphs = [x for x in gc.get_objects() if type(x).__name__ == "FuncGraph"]
        return len(graphs), len(ops.gradient_registry.list())

    first = fit_and_count()
    assert [fit_and_count() for _ in range(3)] == [first] * 3
