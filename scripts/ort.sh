#!/usr/bin/env bash
# Puts ONNX Runtime's shared library into the cache, taken from its Python wheel, and prints the library's path.
# Nothing is done when it is there already. The wheel comes from whatever package index pip is configured for.
set -euo pipefail

version=1.32.0
folder="${XDG_CACHE_HOME:-$HOME/.cache}/bakehouse/ort/$version"
library="$folder/libonnxruntime.so"

if [ ! -s "$library" ]; then
    case "$(uname -s)-$(uname -m)" in
        Linux-x86_64)  platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64) ;;
        Linux-aarch64) platforms=(manylinux_2_28_aarch64 manylinux_2_27_aarch64) ;;
        *) echo "ort.sh: no ONNX Runtime wheel is known for $(uname -s) on $(uname -m); set BAKEHOUSE_ORT_LIB to a library of your own" >&2; exit 1 ;;
    esac
    mkdir -p "$folder"
    # Beside its destination, so that the last step is a rename: a library that is half there is never seen.
    work="$(mktemp -d "$folder/.fetch.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    python="${PYTHON:-python3}"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv "$work/venv" || { echo "ort.sh: needs pip or the venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
        python="$work/venv/bin/python"
    fi
    flags=()
    for platform in "${platforms[@]}"; do flags+=(--platform "$platform"); done
    # The library is the same in the wheels of every Python version; 3.12 merely picks one.
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 --implementation cp "${flags[@]}" --dest "$work" "onnxruntime==$version" >&2
    "$python" - "$work" "$version" <<'PY'
import glob, sys, zipfile
work, version = sys.argv[1:]
(wheel,) = glob.glob(f"{work}/onnxruntime-*.whl")
with zipfile.ZipFile(wheel) as archive, open(f"{work}/library", "wb") as out:
    out.write(archive.read(f"onnxruntime/capi/libonnxruntime.so.{version}"))
PY
    chmod 755 "$work/library"
    mv "$work/library" "$library"
fi

if command -v sha256sum >/dev/null; then sha256sum "$library" >&2; fi
echo "$library"
