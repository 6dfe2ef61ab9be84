"""Locks: who may take one and when, of several takers one, a holder that lost its own notices."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from conftest import write_report

from unifashion.ground import locks
from unifashion.ground.locks import FREE, SILENT, Holder, lock_folder, present, renamed, this_host

ELSEWHERE = Holder("elsewhere", 4711, "17", "a1", 3)
HERE = Holder(this_host(), os.getpid(), locks.birth(os.getpid()), "a1")
linux = pytest.mark.skipif(sys.platform != "linux", reason="tells when a process began by /proc")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    "This process loses locks on purpose here, and must not end by it."
    monkeypatch.setattr(locks, "EVERY", 1000)


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "l"
    yield path
    locks.let_go(path)


def held_by(path, holder, silent=0):
    "The folder of a lock that a holder has, who has been silent for some seconds by the disk's clock."
    folder = lock_folder(path)
    assert renamed(folder, present(folder), holder.name)
    moment = folder.stat().st_mtime - silent
    os.utime(folder, (moment, moment))
    return folder


def start(path, then, every=15):
    "A process that takes a lock, says so and goes on."
    program = f"from unifashion.ground import locks; locks.EVERY = {every}; import sys, time; "
    program += f"print(locks.hold({str(path)!r}, wait=False), flush=True); {then}"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "True"
    return process


def test_a_silent_lock_of_another_host_is_taken_over_and_never_before(lock, monkeypatch):
    for clock in (0.0, 4e9):  # this machine's own is wrong by years
        monkeypatch.setattr(time, "time", lambda: clock)
        folder = held_by(lock, ELSEWHERE, SILENT - 20)
        assert not locks.hold(lock, wait=False) and present(folder) == ELSEWHERE.name
        held_by(lock, ELSEWHERE, SILENT + 20)
        assert locks.hold(lock, wait=False) and present(folder).startswith(f"{this_host()}@{os.getpid()}@")
        locks.let_go(lock)
        assert present(folder) == FREE


def test_one_who_waits_says_for_whom_and_waits_for_the_silence(lock, monkeypatch, capsys):
    folder = held_by(lock, ELSEWHERE)
    looks = []

    def sleep(seconds):
        looks.append(present(folder))
        if len(looks) == 3:
            held_by(lock, ELSEWHERE, SILENT + 20)

    monkeypatch.setattr(locks.time, "sleep", sleep)
    assert locks.hold(lock, "toys") and looks == [ELSEWHERE.name] * 3
    said = capsys.readouterr().out
    assert said == "toys: waiting for process 4711 on elsewhere, which has it now\n"


def take_all(paths, starting, answers):
    for path in paths:
        starting.wait()
        answers.put((path, locks.hold(path, wait=False)))
    starting.wait()  # a holder that ends frees its lock


def test_of_two_takers_one_wins(tmp_path):
    paths = [tmp_path / f"l{i}" for i in range(40)]
    for path in paths[:30]:
        held_by(path, ELSEWHERE, SILENT + 20)  # the others do not exist yet
    fork = multiprocessing.get_context("fork")
    starting = fork.Barrier(2)
    answers = fork.Queue()
    takers = [fork.Process(target=take_all, args=(paths, starting, answers)) for _ in range(2)]
    for taker in takers:
        taker.start()
    said = [answers.get(timeout=60) for _ in range(2 * len(paths))]
    for taker in takers:
        taker.join()
    assert [path for path, won in sorted(said) if won] == sorted(paths)
    assert all(locks.hold(path, wait=False) for path in paths), "both have ended: free at once"
    for path in paths:
        locks.let_go(path)


def test_a_holder_that_shows_life_in_between_keeps_its_lock(lock, monkeypatch):
    folder = held_by(lock, ELSEWHERE, SILENT + 20)
    later = replace(ELSEWHERE, beats=4)

    def judged(folder, name):
        assert renamed(folder, name, later.name)
        return True

    monkeypatch.setattr(locks, "may_be_taken", judged)
    assert not locks.hold(lock, wait=False) and present(folder) == later.name


@linux
def test_a_process_of_this_host_keeps_its_lock_while_it_lives_and_loses_it_with_its_life(lock):
    holder = start(lock, "time.sleep(60)")
    try:
        holder.send_signal(signal.SIGSTOP)  # stands still, and is not dead
        os.utime(lock_folder(lock), (0, 0))
        assert not locks.hold(lock, wait=False)
    finally:
        holder.kill()
        holder.wait()
    assert locks.hold(lock, wait=False) and locks.hold(lock), "a second request of one process passes"


@linux
def test_a_number_that_another_process_has_got_since_holds_nothing(lock):
    held_by(lock, replace(HERE, born="1"))
    assert locks.hold(lock, wait=False)


def test_a_number_of_another_container_or_an_earlier_start_says_nothing(lock):
    held_by(lock, replace(HERE, host=f"{this_host()}0", process=2**22 + 1))
    assert not locks.hold(lock, wait=False), "no such process here, but it is not of here"


def test_a_process_that_ends_lets_go_and_a_forked_child_does_not(lock):
    process = start(lock, "sys.exit()")
    process.communicate()
    assert present(lock_folder(lock)) == FREE
    assert locks.hold(lock, wait=False)
    child = multiprocessing.get_context("fork").Process(target=locks.let_go, args=(lock,))
    child.start()
    child.join()
    assert locks.keeps(lock) and present(lock_folder(lock)) != FREE


def test_life_is_shown_again_and_again(lock, monkeypatch):
    monkeypatch.setattr(locks, "EVERY", 0.02)
    assert locks.hold(lock)
    end = time.time() + 20
    while not re.search(r"@([3-9]|\d{2,})$", present(lock_folder(lock))):
        assert time.time() < end, "no sign of life"
    assert locks.keeps(lock)


def test_a_holder_that_has_lost_its_lock_notices(lock):
    assert locks.hold(lock) and locks.keeps(lock)
    held_by(lock, ELSEWHERE)
    assert not locks.keeps(lock)
    locks.let_go(lock)
    assert present(lock_folder(lock)) == ELSEWHERE.name, "what is another's is not released"
    renamed(lock_folder(lock), ELSEWHERE.name, FREE)
    holder = start(lock, "time.sleep(60)", every=0.1)
    end = time.time() + 20
    while not holder_replaced(lock):
        assert time.time() < end
    said = holder.communicate(timeout=20)[1]
    assert holder.returncode == 1 and "another process has taken this lock; this one ends" in said


def holder_replaced(path):
    folder = lock_folder(path)
    return renamed(folder, present(folder) or FREE, ELSEWHERE.name)


def test_a_lock_whose_folder_is_deleted_ends_nobody(lock, monkeypatch):
    monkeypatch.setattr(locks, "EVERY", 0.01)
    assert locks.hold(lock)
    lock_folder(lock).rename(lock.parent / "thrown away")
    time.sleep(0.1)
    assert not locks.keeps(lock)
    assert locks.hold(lock), "it has passed for this process's since the first request"


def test_a_disk_without_locks_is_no_other_process(lock, monkeypatch, capsys):
    def refuse(old, new):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(locks.os, "rename", refuse)
    for wait in (True, False):
        with pytest.raises(OSError, match="no locks on the disk of .*not supported.*UNIFASHION_LOCKS=no"):
            locks.hold(lock, wait=wait)
    assert "waiting" not in capsys.readouterr().out and lock.resolve() not in locks.HELD
    assert not list(lock.parent.iterdir()), "nothing is left lying about"
    monkeypatch.setenv("UNIFASHION_LOCKS", "no")
    assert locks.hold(lock) and locks.keeps(lock)


def test_a_run_whose_lock_was_taken_is_not_stamped(toy):
    from unifashion.ground.execution import ReportFailed, execute
    from unifashion.ground.keys import plan

    steal = (
        "import os\nfolder = 'outputs/runs/smoke/core/.figure_{}lock.d'\n"
        "os.rename(f'{{folder}}/{{os.listdir(folder)[0]}}', f'{{folder}}/elsewhere@1@2@c@0')"
    )
    write_report(toy, "figure_a", steal.format("a.node."))
    write_report(toy, "figure_b", steal.format("b."))
    for node, said in zip(plan("smoke"), ("its lock; this run is not stamped", "taken its folder")):
        with pytest.raises(ReportFailed, match=said):
            execute(node)
        assert not list(node.folder.glob("*.done"))
    locks.let_all_go()
