#!/usr/bin/env bash
# Pictures of a report as a desktop and a phone show it, light and dark: screenshot.sh REPORT.html [OUT_DIR]
set -euo pipefail
page=$(realpath "${1:?usage: screenshot.sh REPORT.html [OUT_DIR]}")
out=${2:-$(dirname "$page")}
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$browser" ]; then
  echo "No Chromium found. Install one (Debian, Ubuntu: apt-get install chromium), or name it in CHROMIUM." >&2
  exit 1
fi
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

shoot() { # shoot NAME WIDTH HEIGHT [FLAG...]: in a frame, because a window may have a least width
  local name=$1 width=$2 height=$3
  shift 3
  cat > "$work/frame.html" <<HTML
<!DOCTYPE html><meta charset=utf-8><style>html,body{margin:0}iframe{border:0;display:block;width:${width}px;height:${height}px}</style>
<iframe src="file://$page"></iframe>
HTML
  "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files --user-data-dir="$work/profile" \
    --window-size="$width,$height" --screenshot="$out/$name.png" "$@" "file://$work/frame.html" 2>/dev/null
  echo "$out/$name.png"
}

shoot desktop 1400 "${DESKTOP_HEIGHT:-6200}"
shoot phone 390 "${PHONE_HEIGHT:-13000}"
shoot desktop-dark 1400 "${DESKTOP_HEIGHT:-6200}" --blink-settings=preferredColorScheme=0
shoot phone-dark 390 "${PHONE_HEIGHT:-13000}" --blink-settings=preferredColorScheme=0
