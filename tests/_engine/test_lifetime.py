"""When an object of somebody else ends, and what may be done then."""

import gc
import threading

import pytest

from keras_finetune._engine.lifetime import when_let_go


class Thing:
    pass


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
def held():
    """A list that holds a thing, and another that is told of its end."""
    gc.collect()
    gc.disable()
    known = list(gc.callbacks)
    things, told = [Thing()], []
    when_let_go(things[0], lambda: told.append("end"))
    yield things, told
    assert told == ["end"]
    gc.collect()
    assert told == ["end"]
    assert gc.callbacks == known
    gc.enable()


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


def test_it_ends_where_another_thread_drops_it(held):
    things, told = held
    in_a_thread(things.clear)
    assert told


def test_another_thread_is_not_to_disturb_a_framework(held):
    things, told = held
    within("torch", lambda: in_a_thread(things.clear))
    assert not told
    gc.collect()
    assert told


def test_calling_it_off():
    known, told = list(gc.callbacks), []
    thing = Thing()
    call_off = when_let_go(thing, lambda: told.append("end"))
    call_off()
    assert gc.callbacks == known
    call_off()
    del thing
    assert not told


def test_somebody_empties_the_callbacks_of_the_collector(monkeypatch):
    told, thing = [], Thing()
    before = list(gc.callbacks)
    when_let_go(thing, lambda: told.append("end"))
    gc.callbacks[:] = before
    del thing
    assert told
