"""A child process with a time limit, whose end is an answer or an error, never the end of the run."""

import json
import os
import signal
import subprocess

import bakes


class Failed(Exception):
    """The child gave no answer; the message says why in one line."""


def answer(command, limit, folder, environment=None):
    """The JSON on the last line of what the child prints. It runs in `folder`, and with all its children is killed after `limit` seconds."""
    child = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"ended after the time limit of {limit:.0f} s") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode < 0:
        raise Failed(f"killed by {signal.Signals(-child.returncode).name}")
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"exit code {child.returncode}: {bakes.last_line(err)}") from None
