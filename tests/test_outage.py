"""A SLURM query that fails must not lose jobs: the executor plugin as it is installed, its query, and what we make of it."""

import asyncio
import logging
import sys
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin

from symnet.outage import keep_jobs

LOG = logging.getLogger(__name__)


@pytest.mark.parametrize("command", ["false", "sleep", "no-such-program"])
def test_a_query_that_fails_tells_nothing_of_any_job(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)  # put back afterwards
    assert asyncio.run(plugin.query_job_status(command, LOG)) == (None, None)  # on which the executor forgets its jobs
    keep_jobs()
    assert asyncio.run(plugin.query_job_status(command, LOG)) == ({}, 0.0)


def test_an_answer_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)
    for _ in range(2):  # reading the Snakefile twice wraps once
        keep_jobs()
    assert plugin.query_job_status.asked.__module__ == "snakemake_executor_plugin_slurm.job_status_query"
    found, seconds = asyncio.run(plugin.query_job_status("echo '7|RUNNING'", LOG))
    assert (found, seconds > 0) == ({"7": "RUNNING"}, True)


def test_a_job_of_which_nothing_is_known_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the executor itself, in one of its rounds."""
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)
    monkeypatch.setattr(plugin, "query_job_status_squeue", lambda _: "false")
    keep_jobs()

    class Limit:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...

    settings = SimpleNamespace(status_attempts=5, init_seconds_before_status_checks=40, status_command="squeue")
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    executor = plugin.Executor.__new__(plugin.Executor)
    executor.__dict__ |= {
        "workflow": SimpleNamespace(executor_settings=settings),
        "logger": LOG,
        "run_uuid": "x",
        "status_rate_limiter": Limit(),
        "_next_seconds_between_status_checks": 2,
        "_status_query_cycle_rows": [],
        "_status_query_calls": 0,
        "_status_query_failures": 0,
        "_status_query_total_seconds": 0.0,
        "_status_query_min_seconds": None,
        "_status_query_max_seconds": 0.0,
    }
    job = SimpleNamespace(external_jobid="7", aux={})

    async def one_round() -> list[object]:
        return [left async for left in executor.check_active_jobs([job])]

    assert asyncio.run(one_round()) == [job]
    assert executor._status_query_failures == 0


def test_without_the_plugin_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(query_status=None)  # of another version
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_slurm", other)
    keep_jobs()
    assert vars(other) == {"query_status": None}
    monkeypatch.delitem(sys.modules, "snakemake_executor_plugin_slurm")
    keep_jobs()
