"""Runs that are killed at random moments and started again by the same script."""

import shutil

import killed_run
import numpy as np
import pytest
from killed_run import EPOCHS, KILLED, Kill, random_kill

pytestmark = pytest.mark.slow

KILLS_A_CHAIN = 5


def start(directory, **arguments):
    status, said = killed_run.run(
        directory / "log", path=str(directory / "backup"), **arguments
    )
    assert "Traceback" not in said, said
    return status, said


def assert_equal(result, whole):
    result, whole = np.load(result), np.load(whole)
    assert result.files == whole.files
    for name in result.files:
        if name.startswith("log/"):
            rest = result[name]
            assert len(rest) <= EPOCHS
            np.testing.assert_array_equal(rest, whole[name][-len(rest) :])
        else:
            np.testing.assert_array_equal(result[name], whole[name], name)


@pytest.mark.parametrize(("callback", "backup"), killed_run.CHAINS)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    callback, backup, tmp_path
):
    rng = np.random.default_rng(killed_run.CHAINS.index((callback, backup)))
    ends = killed_run.chains(tmp_path, rng, KILLS_A_CHAIN, callback, backup)
    for end in ends:
        assert_equal(end, tmp_path / "whole.npz")


def test_backups_every_few_batches_lose_no_stage_and_no_step(tmp_path):
    # Keras replays the interrupted epoch from its first batch.
    rng = np.random.default_rng(9)
    arguments = {"callback": {"every": 2}, "backup": {"save_freq": 3}}
    for _ in range(4):
        status, said = start(tmp_path, kill=random_kill(rng), **arguments)
        assert status in (0, *KILLED), said
    assert start(tmp_path, result=str(tmp_path / "end.npz"), **arguments)[0] == 0
    end = np.load(tmp_path / "end.npz")
    assert end["stages"].tolist() == [[0, 0], [2, 1], [4, 2]]


def assert_equal_without_stages(ours, by_hand):
    ours, by_hand = dict(np.load(ours)), dict(np.load(by_hand))
    assert len(ours.keys() & by_hand.keys()) > 6
    for name in ours:
        if name in by_hand and name != "stages":
            np.testing.assert_array_equal(ours[name], by_hand[name], name)


@pytest.mark.parametrize("first", [True, False])
def test_in_mid_epoch_it_resumes_as_keras_without_us(first, tmp_path):
    backup = {"backup": {"save_freq": 3, "first": first}, "dropout": 0.0}
    ends = []
    for name, callback in ("ours", {"every": 99}), ("by hand", ["low", "middle"]):
        directory = tmp_path / name
        directory.mkdir()
        arguments = {"callback": callback, **backup}
        assert start(directory, kill=Kill(batch=9), **arguments)[0] in KILLED
        ends.append(directory / "end.npz")
        assert start(directory, result=str(ends[-1]), **arguments)[0] == 0
    assert_equal_without_stages(*ends)


@pytest.mark.parametrize("first", [True, False])
def test_in_mid_epoch_of_the_last_stage_keras_resumes_alike(first, tmp_path):
    backup = {"backup": {"save_freq": 3, "first": first}, "dropout": 0.0}
    ours, by_hand = tmp_path / "ours", tmp_path / "by hand"
    ours.mkdir()
    arguments = {"callback": {"every": 1}, **backup}
    kill = Kill(batch=3 * killed_run.BATCHES + 2)
    assert start(ours, kill=kill, **arguments)[0] in KILLED
    shutil.copytree(ours, by_hand)  # a backup of Keras, from which Keras goes on
    ends = [ours / "end.npz", by_hand / "end.npz"]
    assert start(ours, result=str(ends[0]), **arguments)[0] == 0
    assert start(by_hand, result=str(ends[1]), callback=[], **backup)[0] == 0
    assert_equal_without_stages(*ends)


@pytest.mark.keras3
@pytest.mark.parametrize("torn", ["stale", "empty", "missing", "without weights"])
def test_a_backup_that_keras_left_torn(torn, tmp_path):
    arguments = {"callback": {"every": 2}}
    whole = str(tmp_path / "whole.npz")
    assert start(tmp_path, result=whole, **arguments)[0] == 0
    assert start(tmp_path, kill=Kill(batch=9), **arguments)[0] in KILLED
    metadata = tmp_path / "backup" / "training_metadata.json"
    if torn == "stale":
        metadata.write_text('{"epoch": 1, "batch": 0}')
    elif torn == "empty":
        metadata.write_text("")
    elif torn == "missing":
        metadata.unlink()
    else:
        (tmp_path / "backup" / "latest.weights.h5").unlink()
    status, said = start(tmp_path, result=str(tmp_path / "end.npz"), **arguments)
    assert status == 0, said
    assert ("training starts afresh" in said) == (torn == "without weights")
    assert_equal(tmp_path / "end.npz", whole)
    epochs = len(np.load(tmp_path / "end.npz")["log/loss"])
    assert epochs == (EPOCHS if torn == "without weights" else EPOCHS - 2)
