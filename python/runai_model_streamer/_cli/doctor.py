"""model-streamer doctor"""

from __future__ import annotations

import dataclasses

from runai_model_streamer._cli.command import Debug, Json, Where, command
from runai_model_streamer._cli.output import Output
from runai_model_streamer._cli.process import FINDING, STORAGE
from runai_model_streamer._errors import shown_path
from runai_model_streamer._tools.doctor import cause_in, diagnose
from runai_model_streamer._tools.steps import FAIL, Step

EXAMPLES = ("doctor s3://bucket/llama", "doctor /models/llama", "doctor --json gs://bucket/llama")


@command
def doctor(path: Where, as_json: Json = False, debug: Debug = False) -> int | None:
    """Find the step on the way to a path that fails, and why."""
    output = Output(as_json)
    steps: list[Step] = []
    for step in diagnose(path):
        steps.append(step)
        output.line(f"{step.status:4}  {step.name}: {step.text}", step.status)
        if step.cure:
            output.line(f"      -> {step.cure}")
    cause = cause_in(steps)
    output.document(
        "doctor",
        path=shown_path(path),
        cause=cause,
        steps=[dataclasses.asdict(step) for step in steps],
    )
    if cause is None:
        output.line("Nothing is wrong.", "ok")
        return None
    output.line(f"cause: {cause}", "fail")
    return STORAGE if any(step.status == FAIL for step in steps) else FINDING
