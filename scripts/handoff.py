#!/usr/bin/env python3
"""Times the way from phase 5 to phase 7 for each example: package, upload, bake, promotion, verification. Standard library only.

usage: handoff.py PROGRAM

Between buckets of versitygw where it was made (e2e/cluster/components.sh versitygw), else between folders. Nothing else runs meanwhile.
"""

import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import bakes

STEPS = ["package", "upload", "bake", "promote", "verify"]
KEYS = {"AWS_ACCESS_KEY_ID": "bakehouse", "AWS_SECRET_ACCESS_KEY": "bakehouse-secret", "AWS_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}


class Ground:
    """Where packages, results and deployments lie: folders, which a gateway may serve as buckets."""

    def __init__(self, root):
        self.root, self.gateway, self.env = pathlib.Path(root), None, dict(os.environ)
        for name in ("phase5", "baked", "phase7"):
            (self.root / name).mkdir()
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        made = sorted((cache / "bakehouse").glob("versitygw-*/versitygw"))
        if made:
            self.serve(made[-1])
        self.place = "s3:/" if self.gateway else str(self.root)

    def serve(self, program):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
        command = [program, "--port", f"127.0.0.1:{port}", "posix", self.root]
        self.gateway = subprocess.Popen(command, env=self.env | keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        self.env |= KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    def close(self):
        if self.gateway:
            self.gateway.kill()
            self.gateway.wait()


def way(program, ground, example, scratch):
    """Seconds of each step for one example."""
    seconds = {}

    def run(step, *arguments):
        began = time.monotonic()
        ended = subprocess.run([program, *map(str, arguments)], env=ground.env, capture_output=True, text=True)
        seconds[step] = time.monotonic() - began
        # What a busy machine leaves open (4) is a verified package all the same.
        if ended.returncode and not (step == "verify" and ended.returncode == 4):
            raise bakes.Failed(f"{example}: {step}: exit code {ended.returncode}: {bakes.last_line(ended.stderr)}")

    folder = bakes.ROOT / "examples" / example
    package = pathlib.Path(scratch) / "package"
    figure = json.loads((bakes.ROOT / "examples" / "accuracy.json").read_text())[example]["accuracy"]
    splits = [f"--{split}={folder / split}.npz" for split in ("validation", "calibration", "training")]
    run("package", "package", "--name", example, "--metric", "Top1", f"--figure=Top1={figure}", "--model", folder / "model.onnx", *splits, "--out", package)
    began = time.monotonic()
    shutil.copytree(package, ground.root / "phase5" / example)
    seconds["upload"] = time.monotonic() - began
    job = pathlib.Path(scratch) / "bakejob.json"
    spec = {
        "source": {"uri": f"{ground.place}/phase5/{example}/"},
        "output": {"uri": f"{ground.place}/baked/{example}/"},
        "exports": ["ONNX", "Phase7"],
        "promotion": {"policy": "Manual", "uri": f"{ground.place}/phase7/"},
    }
    job.write_text(json.dumps({"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": example}, "spec": spec}))
    run("bake", "bake", "--quiet", "-f", job)
    digest = hashlib.sha256((ground.root / "baked" / example / "model.onnx").read_bytes()).hexdigest()
    run("promote", "promote", "--approve", f"sha256:{digest}", "-f", job)
    run("verify", "verify", f"{ground.place}/phase7/{example}/current.json")
    return seconds


def ways(program):
    """Seconds of each step by example, and where the files lay."""
    with tempfile.TemporaryDirectory() as root:
        ground = Ground(root)
        try:
            found = {}
            for example in bakes.EXAMPLES:
                print(f"handing {example} over", file=sys.stderr, flush=True)
                with tempfile.TemporaryDirectory() as scratch:
                    found[example] = way(program, ground, example, scratch)
            return found, "buckets of versitygw" if ground.gateway else "folders"
        finally:
            ground.close()


def main():
    found, where = ways(pathlib.Path(sys.argv[1]).resolve())
    rows = [[e, *(f"{s[step]:.2f}" for step in STEPS), f"{sum(s.values()):.2f}"] for e, s in found.items()]
    print(f"Seconds, between {where}:\n\n" + bakes.table(["example", *STEPS, "sum"], rows))


if __name__ == "__main__":
    main()
