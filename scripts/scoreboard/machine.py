"""The machine that figures were taken on, and the versions of what took part."""

import os
import pathlib
import platform

from scoreboard import fetch

# Of a CPU's flags, those that decide how fast integer and float products are; x86 and ARM.
VECTORS = ["avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"]
VECTORS += ["asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"]


def facts():
    cpu = cpu_info(pathlib.Path("/proc/cpuinfo").read_text())
    return {
        **cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memoryBytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "load": os.getloadavg()[0],
    }


def cpu_info(text):
    """{cpu, vectors} from what the kernel says of the first processor."""
    first = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            first.setdefault(name.strip(), value.strip())
    flags = (first.get("flags") or first.get("Features") or "").split()
    family = "" if "cpu family" not in first else f" (family {first['cpu family']}, model {first['model']})"
    return {"cpu": (first.get("model name") or platform.machine()) + family, "vectors": [v for v in VECTORS if v in flags]}


def same_cpu(one, other):
    return all(one[fact] == other[fact] for fact in ("cpu", "vectors", "cores"))


def versions():
    return {"Python": platform.python_version(), **fetch.versions()}
