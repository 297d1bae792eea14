"""Jobs run side by side and in order, are kept once finished, and name their log when they fail."""

import functools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from kd_mm.engine.jobs import Job, JobFailedError, fingerprint, run_jobs


def work(needed: tuple[str, ...], home: Path) -> dict:
    found = [(home.parent / name / "result.json").is_file() for name in needed]
    os.write(1, b"noise on the console\n")
    return {"name": home.name, "found": found, "process": os.getpid()}


def fail(home: Path) -> dict:
    raise ValueError("no\nsuch thing")


def die(home: Path) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def wait_for_ever(home: Path) -> dict:
    (home / "process").write_text(str(os.getpid()))
    time.sleep(3600)
    return {}


def job(name: str, *needs: str, version: str = "a") -> Job:
    return Job(name, functools.partial(work, needs), version, needs)


def test_jobs_wait_for_what_they_need_and_run_elsewhere(tmp_path, capfd):
    jobs = [job("last", "middle", "first"), job("middle", "first"), job("first"), job("free")]
    reported = []
    results = run_jobs(jobs, tmp_path, 2, lambda done, result, kept: reported.append((done.name, kept)))
    assert list(results) == ["last", "middle", "first", "free"]
    assert all(all(result["found"]) and result["process"] != os.getpid() for result in results.values())
    assert sorted(reported) == [(name, False) for name in ("first", "free", "last", "middle")]
    assert capfd.readouterr().out == ""
    assert (tmp_path / "free" / "console.log").read_text() == "noise on the console\n"


def test_a_finished_job_is_kept_while_its_fingerprint_is_the_same(tmp_path):
    first = run_jobs([job("one"), job("two")], tmp_path, 1, lambda *_: None)
    kept = {}
    second = run_jobs(
        [job("one"), job("two", version="b")], tmp_path, 1, lambda done, _, old: kept.update({done.name: old})
    )
    assert kept == {"one": True, "two": False}
    assert second["one"] == first["one"]
    assert second["two"]["process"] != first["two"]["process"]


@pytest.mark.parametrize(("broken", "message"), [(fail, "no such thing"), (die, "terminated")])
def test_a_failed_job_is_named_with_its_log(tmp_path, broken, message):
    with pytest.raises(JobFailedError, match=message) as caught:
        run_jobs([job("good"), Job("bad", broken, "", ("good",))], tmp_path, 1, lambda *_: None)
    assert str(tmp_path / "bad" / "console.log") in str(caught.value)
    assert str(caught.value).startswith("bad failed: ")
    assert (tmp_path / "good" / "result.json").is_file()
    assert not (tmp_path / "bad" / "result.json").exists()
    assert broken is die or "in fail" in (tmp_path / "bad" / "console.log").read_text()


def test_after_a_failure_all_are_finished_but_those_that_need_it(tmp_path):
    def after(*needs):
        return functools.partial(work, needs)

    jobs = [Job("bad", fail, ""), Job("worse", die, ""), Job("next", after(), "", ("bad",)), Job("free", after(), "")]
    failed = {}
    with pytest.raises(JobFailedError, match="bad failed: .*; worse failed: .*; 1 more need what failed") as caught:
        run_jobs(jobs, tmp_path, 1, lambda *_: None, report_failure=lambda job, why: failed.update({job.name: why}))
    assert caught.value.failures == failed
    assert failed["bad"] == "no such thing"
    assert (tmp_path / "free" / "result.json").is_file()
    assert not (tmp_path / "next").exists()


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    jobs = [Job("long", wait_for_ever, "")]
    parent = multiprocessing.get_context("fork").Process(target=run_jobs, args=(jobs, tmp_path, 1, print))
    parent.start()
    note = tmp_path / "long" / "process"
    until(lambda: note.is_file() and note.read_text() != "")
    worker = int(note.read_text())
    assert alive(worker)
    parent.kill()
    parent.join()
    until(lambda: not alive(worker))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def test_fingerprints_tell_configs_apart():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
