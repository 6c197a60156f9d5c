"""When an object of somebody else ends, and what may be done then."""

import gc
import threading
import weakref

import pytest

from keras_finetune._engine.lifetime import _works, when_let_go
from keras_finetune._engine.session import world


class Thing:
    pass


class Hears:
    """Is told of an end."""

    def __init__(self):
        self.told = []

    def end(self):
        self.told.append("end")


def is_plain():
    return True


def within(framework, act):
    """Calls `act` from a function of that framework."""
    module = {"__name__": f"{framework}.src.somewhere"}
    exec("def call(act): act()", module)
    module["call"](act)


def in_a_thread(act):
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()


@pytest.fixture
def no_collector():
    """No collection but those of the test; nothing is left on the collector."""
    gc.collect()
    gc.disable()
    known = list(gc.callbacks)
    try:
        yield
        gc.collect()
        assert gc.callbacks == known
    finally:
        gc.enable()


@pytest.fixture
def held(no_collector):
    """A list that holds a thing, and another that is told of its end."""
    things, hears = [Thing()], Hears()
    when_let_go(things[0], hears.end, is_plain)
    yield things, hears.told
    assert hears.told == ["end"]
    gc.collect()
    assert hears.told == ["end"]


def test_it_ends_at_once_where_it_is_dropped(held):
    things, told = held
    assert not told
    within("keras", things.clear)
    assert told


def test_what_is_in_a_cycle_waits_for_the_collector(held):
    things, told = held
    things[0].itself = things[0]
    things.clear()
    assert not told
    gc.collect()
    assert told


@pytest.mark.parametrize("framework", ["keras", "tf_keras", "tensorflow", "jax"])
def test_a_collection_within_a_framework_is_not_the_moment(held, framework):
    things, told = held
    things[0].itself = things[0]
    things.clear()
    for _ in range(2):
        within(framework, gc.collect)
        assert not told
    gc.collect()
    assert told


def test_a_context_of_a_framework_is_not_the_place(no_collector):
    thing, hears, states = Thing(), Hears(), [False, True]
    thing.itself = thing
    when_let_go(thing, hears.end, lambda: states.pop(0))
    del thing
    gc.collect()
    assert not hears.told
    gc.collect()
    assert hears.told


def test_another_thread_that_drops_it_leaves_it_to_the_one_that_asked(held):
    things, told = held
    in_a_thread(things.clear)
    assert not told
    in_a_thread(gc.collect)
    assert not told
    gc.collect()
    assert told


def test_the_main_thread_ends_what_another_asked_for(no_collector):
    things, hears = [Thing()], Hears()
    in_a_thread(lambda: when_let_go(things[0], hears.end, is_plain))
    things.clear()
    assert hears.told


def test_not_while_a_framework_works_in_the_thread_that_asked(no_collector):
    things, hears = [Thing()], Hears()
    asked, done = threading.Event(), threading.Event()

    def ask():
        when_let_go(things[0], hears.end, is_plain)
        asked.set()
        within("torch", lambda: done.wait(60))

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait(60)
    while not _works(thread.ident):
        pass
    things.clear()
    gc.collect()
    assert not hears.told
    done.set()
    thread.join()
    gc.collect()
    assert hears.told


def test_who_is_told_is_not_kept_alive(no_collector):
    thing, hears = Thing(), Hears()
    thing.itself = thing
    end = weakref.ref(hears)
    when_let_go(thing, hears.end, is_plain)
    del thing, hears
    assert end() is None


def test_calling_it_off(no_collector):
    known, thing, hears = list(gc.callbacks), Thing(), Hears()
    call_off = when_let_go(thing, hears.end, is_plain)
    call_off()
    assert gc.callbacks == known
    call_off()
    del thing
    assert not hears.told


def test_somebody_empties_the_callbacks_of_the_collector(no_collector):
    before, thing, hears = list(gc.callbacks), Thing(), Hears()
    when_let_go(thing, hears.end, is_plain)
    gc.callbacks[:] = before
    del thing
    assert hears.told


@pytest.mark.backend("tensorflow")
def test_a_graph_and_a_strategy_are_contexts():
    import tensorflow as tf

    assert world.is_plain()
    with tf.Graph().as_default():
        assert not world.is_plain()
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert not world.is_plain()
    assert world.is_plain()
