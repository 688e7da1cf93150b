"""The threads of the compiled kernels: how many there are, what they cost, and how runs end early."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.kernels import native
from transpike.testing import dyadic_batch, make_dyadic, set_dyadic_thresholds

pytest.importorskip("transpike.kernels._native")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def converted() -> tuple[tp.SpikingNetwork, Tensor]:
    torch.manual_seed(0)
    x = dyadic_batch((5, 3, 12, 12))
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(24, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(640, 7)),
    )
    conversion = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())
    snn = tp.convert(make_dyadic(model), conversion, calibration=x, example_inputs=x)
    return set_dyadic_thresholds(snn).requires_grad_(False), x


def run(snn: tp.SpikingNetwork, x: Tensor, threads: int) -> tuple[Tensor, dict[str, list[int]]]:
    torch.set_num_threads(threads)
    spikes: dict[str, list[int]] = {}
    answer = snn(x, steps=6, count=lambda name, sent: spikes.update({name: sent.tolist()}))
    return answer, spikes


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_answers_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    snn, x = converted()
    with torch.no_grad():
        wanted = snn(x, steps=6, kernel=tp.kernels.KernelPreference.REFERENCE)
        first = run(snn, x, 1)
        for _ in range(20):
            answer, spikes = run(snn, x, threads)
            assert torch.equal(answer, first[0])
            assert spikes == first[1]
        torch.testing.assert_close(first[0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_samples_smaller_than_a_vector(threads: int) -> None:
    """What is read at the border of one reaches into several others, at which other threads may be at work."""
    torch.manual_seed(0)
    x = dyadic_batch((70, 6))
    layers = [layer for _ in range(4) for layer in (nn.Linear(6, 6), nn.ReLU())]
    conversion = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())
    snn = tp.convert(make_dyadic(nn.Sequential(*layers)), conversion, calibration=x, example_inputs=x)
    set_dyadic_thresholds(snn).requires_grad_(False)
    with torch.no_grad():
        answer, spikes = run(snn, x, 1)
        for _ in range(20):
            again = run(snn, x, threads)
            assert torch.equal(again[0], answer)
            assert again[1] == spikes


def test_several_python_threads_run_at_once() -> None:
    snn, x = converted()

    def again(number: int) -> list[Tensor]:
        with torch.no_grad():
            return [run(snn, x[: 1 + number % 5], 1 + number % 4)[0] for _ in range(15)]

    with torch.no_grad():
        wanted = snn(x, steps=6)
        with ThreadPoolExecutor(6) as pool:
            for number, answers in enumerate(pool.map(again, range(6))):
                assert all(torch.equal(answer, wanted[:, : 1 + number % 5]) for answer in answers)


def in_python(code: str, timeout: float = 120) -> str:
    """What a fresh process prints."""
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_there_are_as_many_threads_as_torch_has() -> None:
    code = """
        import torch
        from pathlib import Path
        from transpike.kernels import native
        drive, v, theta = torch.ones(4, 1 << 16), torch.zeros(1 << 16), torch.ones(1)
        found = []
        for threads in (1, 3, 5, 2):
            torch.set_num_threads(threads)
            native.integrate_fire(drive, v, theta, True)
            names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
            found.append((native.module().threads(), names.count("transpike")))
        print(found)
        """
    assert in_python(code).strip() == "[(1, 0), (3, 2), (5, 4), (2, 4)]"  # they stay, to be used again


def test_the_library_brings_no_second_openmp() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("looks with ldd")
    listed = subprocess.run(["ldd", str(native.module().__file__)], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in listed
    assert "omp" not in listed


def test_idle_threads_take_no_time() -> None:
    snn, x = converted()
    with torch.no_grad():
        run(snn, x, 1)
        torch.set_num_threads(4)
        native.integrate_fire(torch.ones(2, 4096), torch.zeros(4096), torch.ones(1), True)
    time.sleep(0.05)
    began = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - began < 0.05


def in_child(snn: tp.SpikingNetwork, x: Tensor, wanted: Tensor) -> None:
    """Ends with 0 if the answers of a forked process, on one thread and on the kernels' own, are right."""
    with torch.no_grad():
        right = [torch.equal(snn(x, steps=6), wanted) for _ in range(3)]
    os._exit(0 if all(right) else 1)


FORKED = """
    import os, signal, sys, torch
    sys.path.insert(0, {folder!r})
    from test_threads import converted, in_child, run
    from multiprocessing import get_context
    snn, x = converted()
    with torch.no_grad():
        wanted, _ = run(snn, x, 3)
        run(snn, x, 3)
    if {way!r} == "os.fork":
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that hangs
            in_child(snn, x, wanted)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    else:
        child = get_context("fork").Process(target=in_child, args=(snn, x, wanted))
        child.start()
        child.join(60)
        status = child.exitcode
        child.kill()
    with torch.no_grad():
        assert torch.equal(run(snn, x, 3)[0], wanted)
    print(status)
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("way", ["os.fork", "multiprocessing"])
def test_a_forked_process_runs(way: str) -> None:
    assert "fork" in multiprocessing.get_all_start_methods()
    assert in_python(FORKED.format(folder=str(Path(__file__).parent), way=way)).strip() == "0"


INTERRUPTED = """
    import json, os, signal, sys, threading, time, torch
    sys.path.insert(0, {folder!r})
    from test_threads import converted
    from transpike.kernels import native
    torch.set_num_threads({threads})
    snn, x = converted()
    drive = torch.full((1, 1 << 15), 0.3)
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    def long_run():
        if {what!r} == "chain":
            snn(x.repeat(4, 1, 1, 1), steps=30_000, memory_mib=1 << 14)
        else:
            native.exact_potential(drive.expand(30_000, -1), drive[0], torch.ones(1))

    with torch.no_grad():
        wanted = snn(x, steps=6)
        timer = threading.Timer(1.0, interrupt)
        timer.start()
        try:
            long_run()
            raised = False
        except KeyboardInterrupt:
            raised = True
        seconds = time.perf_counter() - sent[0]
        again = torch.equal(snn(x, steps=6), wanted)
        begin = torch.zeros(64)
        found = native.exact_potential(torch.full((4, 64), 0.5), begin, torch.ones(1))
        again = again and torch.equal(found, begin)
    print(json.dumps([raised, seconds, again]))
    """


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("what", ["chain", "exact_potential"])
def test_a_long_run_can_be_interrupted(what: str, threads: int) -> None:
    code = INTERRUPTED.format(folder=str(Path(__file__).parent), threads=threads, what=what)
    raised, seconds, again = json.loads(in_python(code).splitlines()[-1])
    assert raised
    assert seconds < 1
    assert again


def test_signals_are_left_to_the_main_thread() -> None:
    """A run on another thread goes on when Ctrl-C is for the main one."""
    snn, x = converted()
    answers = []
    with torch.no_grad():
        wanted = run(snn, x, 2)[0]
        other = threading.Thread(target=lambda: answers.append(torch.no_grad()(lambda: snn(x, steps=6))()))
        other.start()
        other.join()
    assert torch.equal(answers[0], wanted)


@pytest.mark.parametrize(("steps", "neurons"), [(1 << 54, 64), (1 << 60, 1)])
def test_too_many_steps_are_refused_and_no_crash(steps: int, neurons: int) -> None:
    """No memory can be that large, and the second size is not even a number of bytes."""
    drive = torch.zeros(1, neurons).expand(steps, neurons)  # no memory of its own
    with pytest.raises(MemoryError):
        native.module().exact_potential(drive, torch.ones(1), neurons, torch.zeros(neurons))
