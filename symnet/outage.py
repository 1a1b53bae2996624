"""Snakemake's SLURM executor while the controller does not answer: its jobs are kept, and asked for again.

Where all attempts of a query fail, snakemake-executor-plugin-slurm (2.8) forgets the jobs it asked for, and Snakemake waits for them for
ever. Without accounting a controller that is away for a moment is enough: the executor asks it for MinJobAge before every query, gets no
answer, and turns to sacct, which cannot have one.
"""

import sys
from typing import Any


def keep_jobs() -> None:
    """Make a failed query say that nothing is known of any job, which the executor takes as "still queued": it asks again later."""
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    ask = getattr(plugin, "query_job_status", None)
    if ask is None or hasattr(ask, "asked"):
        return

    async def patient(command: str, logger: Any) -> tuple[dict[str, str], float]:
        found, seconds = await ask(command, logger)
        return ({}, 0.0) if found is None else (found, seconds)

    patient.asked = ask  # type: ignore[attr-defined]
    plugin.query_job_status = patient
