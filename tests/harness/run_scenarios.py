"""Runs scenario files against a bot with Pipecat's own evaluation harness. Runs in that harness's virtual environment.

python run_scenarios.py WS_URL REPORT.json SCENARIOS.yaml ...
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path

from loguru import logger
from pipecat.evals.scenario import EvalScenarioFile
from pipecat.evals.session import EvalSession, EvalSessionParams

TIMEOUT_MS = 60_000
"""For an expectation that has no time of its own, on a loaded machine."""


async def run(url: str, files: list[str]) -> list[dict[str, object]]:
    results = []
    for file in files:
        for scenario in EvalScenarioFile.load(Path(file)):
            params = EvalSessionParams(default_timeout_ms=TIMEOUT_MS)
            result = await EvalSession.from_scenario(scenario, url, params=params).run()
            results.append(dataclasses.asdict(result))
    return results


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    url, report, *files = sys.argv[1:]
    Path(report).write_text(json.dumps(asyncio.run(run(url, files))))
