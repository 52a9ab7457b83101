"""The supervisor, run as a process of its own over real worker processes."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobbus.errors import ConfigurationError
from jobbus.worker.supervisor import FileWatch, RestartPolicy, Supervisor

SECONDS = 20.0
"""How long anything may take before a test gives up; nothing here needs more than a few."""

SAY = """
import os, signal
signal.alarm(60)  # Whatever becomes of the test, no worker is left behind.
def say(*words):
    # In one write, so that the lines of several processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

OBEDIENT = f"""{SAY}
import signal, sys
def leave(number, frame):
    say("got", signal.Signals(number).name, os.getpid())
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
say("up", os.environ["JOBBUS_PROCESS_INDEX"], os.getpid())
while True:
    signal.pause()
"""

STUBBORN = f"""{SAY}
import signal
def note(number, frame):
    say("got", signal.Signals(number).name, os.getpid())
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
say("up", os.environ["JOBBUS_PROCESS_INDEX"], os.getpid())
while True:
    signal.pause()
"""

DRIVER = """
import logging, sys
from datetime import timedelta
from pathlib import Path
from jobbus.worker.supervisor import RestartPolicy, Supervisor
logging.basicConfig(level=logging.INFO)
second = timedelta(seconds=1)
sys.exit(Supervisor([sys.executable, "-c", sys.argv[1]], {options}).run())
"""


class Supervised:
    """A supervisor in a process of its own, and what its workers print."""

    def __init__(self, worker: str, options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(options=options), worker],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._rest = b""

    def line(self) -> list[str]:
        """The next line, in words; empty when every process has closed its output."""
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
            assert ready, "nothing was printed in time"
            read = os.read(self.process.stdout.fileno(), 4096)
            if not read:
                return []
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().split()

    def lines(self, number: int) -> list[list[str]]:
        return sorted(self.line() for _ in range(number))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def supervised(worker: str, options: str = "processes=1") -> Iterator[Supervised]:
    it = Supervised(worker, options)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.wait()
        assert it.process.stdout is not None
        it.process.stdout.close()


FAST = "restart=RestartPolicy(first=second / 100, cap=second / 20)"


def test_every_copy_runs_and_knows_its_number() -> None:
    with supervised(OBEDIENT, "processes=3") as it:
        up = it.lines(3)
        assert [words[:2] for words in up] == [["up", "0"], ["up", "1"], ["up", "2"]]
        assert len({words[2] for words in up}) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_reaches_every_worker_and_the_exit_code_is_zero(
    number: signal.Signals,
) -> None:
    with supervised(OBEDIENT, "processes=2") as it:
        pids = {words[2] for words in it.lines(2)}
        it.send(number)
        got = it.lines(2)
        assert {words[1] for words in got} == {number.name}
        assert {words[2] for words in got} == pids
        assert it.wait() == 0


def test_a_second_signal_is_passed_on_too_and_a_worker_that_stays_is_killed() -> None:
    with supervised(STUBBORN, "processes=1, stop_within=second") as it:
        pid = it.line()[2]
        it.send(signal.SIGTERM)
        assert it.line() == ["got", "SIGTERM", pid]
        it.send(signal.SIGINT)
        assert it.line() == ["got", "SIGINT", pid]
        assert it.wait() == 128 + signal.SIGKILL


def test_hanging_up_stops_the_workers_as_sigterm_does() -> None:
    with supervised(OBEDIENT) as it:
        it.line()
        it.send(signal.SIGHUP)
        assert it.line()[:2] == ["got", "SIGTERM"]
        assert it.wait() == 0


def test_a_killed_worker_is_replaced_in_its_place_and_its_sibling_lives_on() -> None:
    with supervised(OBEDIENT, f"processes=2, {FAST}") as it:
        first, second = it.lines(2)
        os.kill(int(first[2]), signal.SIGKILL)
        replaced = it.line()
        assert replaced[:2] == ["up", "0"]
        assert replaced[2] != first[2]
        os.kill(int(second[2]), 0)


def test_a_worker_that_keeps_dying_is_started_again_each_time() -> None:
    with supervised(f"{SAY}say('up'); raise SystemExit(7)", FAST) as it:
        assert it.lines(5) == [["up"]] * 5
        it.send(signal.SIGTERM)
        # 0 when it was told to end before it had come to failing.
        assert it.wait() in (0, 7)


def test_the_exit_code_is_the_worst_of_the_workers() -> None:
    worker = f"""{SAY}
import signal, sys
index = int(os.environ["JOBBUS_PROCESS_INDEX"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(10 * index))
say("up")
while True:
    signal.pause()
"""
    with supervised(worker, "processes=3") as it:
        it.lines(3)
        it.send(signal.SIGTERM)
        assert it.wait() == 20


def test_until_done_ends_when_the_last_worker_has_ended_well() -> None:
    with supervised(f"{SAY}say('done')", "processes=2, until_done=True") as it:
        assert it.wait() == 0
        assert [it.line(), it.line(), it.line()] == [["done"], ["done"], []]


def test_until_done_still_replaces_a_worker_that_failed(tmp_path: Path) -> None:
    worker = f"""
import os, sys
try:
    os.close(os.open({str(tmp_path / "failed")!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    sys.exit(0)
sys.exit(1)
"""
    with supervised(worker, f"until_done=True, {FAST}") as it:
        assert it.wait() == 0


def test_a_worker_that_cannot_run_as_configured_stops_all_with_its_code(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    worker = f"""
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if os.environ["JOBBUS_PROCESS_INDEX"] == "1":
    open({str(ready)!r}).close()
    sys.exit(2)
open({str(ready)!r}, "w").close()
while True:
    signal.pause()
"""
    with supervised(worker, "processes=2") as it:
        assert it.wait() == 2


def test_a_command_that_does_not_exist_is_tried_again_and_can_be_stopped() -> None:
    driver = """
import signal, sys
from datetime import timedelta
from jobbus.worker.supervisor import RestartPolicy, Supervisor
class Loud(Supervisor):
    def _plan_restart(self, place, *, exit_code):
        super()._plan_restart(place, exit_code=exit_code)
        print("failed", flush=True)
sys.exit(Loud(["/nonexistent/worker"], restart=RestartPolicy(first=timedelta(0))).run())
"""
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == [b"failed\n"] * 3
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(SECONDS) == 1
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_workers_are_told_to_stop_when_the_supervisor_is_killed() -> None:
    with supervised(OBEDIENT, "processes=2") as it:
        pids = {words[2] for words in it.lines(2)}
        it.send(signal.SIGKILL)
        assert {words[2] for words in it.lines(2)} == pids
        assert it.line() == []


def test_a_changed_file_restarts_the_workers_gracefully(tmp_path: Path) -> None:
    code = tmp_path / "package" / "handlers.py"
    code.parent.mkdir()
    code.write_text("version = 1\n")
    with supervised(OBEDIENT, f"processes=2, reload=[Path({str(tmp_path)!r})]") as it:
        before = {words[2] for words in it.lines(2)}
        code.write_text("version = 22\n")
        lines = it.lines(4)
        assert {words[2] for words in lines if words[0] == "got"} == before
        after = {words[2] for words in lines if words[0] == "up"}
        assert len(after) == 2
        assert not after & before
        it.send(signal.SIGTERM)
        assert {words[2] for words in it.lines(2)} == after
        assert it.wait() == 0


def test_a_worker_that_died_of_a_bad_edit_comes_back_with_the_next_one(tmp_path: Path) -> None:
    code = tmp_path / "worker.py"
    code.write_text("raise SystemExit(2)\n")
    worker = f"{SAY}code = open({str(code)!r}).read(); say('try'); exec(code)"
    slow = "restart=RestartPolicy(first=60 * second)"
    with supervised(worker, f"{slow}, reload=[Path({str(tmp_path)!r})]") as it:
        assert it.line() == ["try"]
        code.write_text(OBEDIENT)
        assert it.line() == ["try"]
        assert it.line()[0] == "up"


@pytest.mark.skipif(sys.platform != "linux", reason="counts wake-ups in /proc")
def test_a_supervisor_that_waits_does_not_wake_up() -> None:
    with supervised(OBEDIENT) as it:
        it.line()
        status = Path(f"/proc/{it.process.pid}/status")

        def wake_ups() -> int:
            found = re.search(
                r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.MULTILINE
            )
            assert found is not None
            return int(found[1])

        before = wake_ups()
        time.sleep(0.5)  # There is no event to wait for: nothing may happen.
        assert wake_ups() - before < 5


def test_the_wait_before_a_restart_doubles_up_to_its_cap() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause(deaths).total_seconds() for deaths in (1, 2, 3, 4, 5, 6, 7, 1000)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_healthy_life_forgets_earlier_deaths() -> None:
    policy = RestartPolicy(healthy_after=timedelta(seconds=60))
    supervisor = Supervisor(["true"], restart=policy)
    (place,) = supervisor._places
    now = time.monotonic()
    for lived, deaths in ((0, 1), (1, 2), (59, 3), (61, 1), (0, 2)):
        place.started_at = now - lived
        supervisor._plan_restart(place, exit_code=1)
        assert place.deaths == deaths


def test_the_watch_tells_changed_added_and_removed_files_once(tmp_path: Path) -> None:
    kept, gone, added = tmp_path / "kept.py", tmp_path / "gone.py", tmp_path / "added.py"
    kept.write_text("1")
    gone.write_text("1")
    watch = FileWatch([tmp_path])
    assert watch.changed() == []
    kept.write_text("12")
    gone.unlink()
    added.write_text("1")
    assert watch.changed() == [added, gone, kept]
    assert watch.changed() == []


def test_the_watch_overlooks_what_is_not_the_users_python_code(tmp_path: Path) -> None:
    environment = tmp_path / "my-environment"
    for folder in (".venv", "node_modules", ".git", "__pycache__", "my-environment"):
        (tmp_path / folder / "deep").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("")
    watch = FileWatch([tmp_path])
    for folder in (".venv", "node_modules", ".git", "__pycache__", "my-environment"):
        (tmp_path / folder / "deep" / "code.py").write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    assert watch.changed() == []


def test_watching_what_is_no_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing"):
        Supervisor(["true"], reload=[tmp_path / "missing"])


def test_fewer_than_one_process_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        Supervisor(["true"], processes=0)


def test_running_outside_the_main_thread_is_an_error() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            Supervisor(["true"]).run()
        except ConfigurationError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SECONDS)
    assert "main thread" in str(raised[0])
