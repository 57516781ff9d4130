#!/bin/sh
# Makes sure of the system libraries that Qt opens a window with. Debian and Ubuntu: installs what is missing where that
# is possible, else names it in one line. Other systems bring them along.
set -eu
[ "$(uname -s)" = Linux ] || exit 0
if ! command -v dpkg-query >/dev/null 2>&1; then
  echo "Qt's window needs libEGL, libGL, libxkbcommon-x11, libxcb-cursor, libxcb-icccm, libxcb-keysyms and a font;" \
    "please install them with your system's package manager if the window does not open." >&2
  exit 0
fi

wanted="libegl1 libgl1 libglib2.0-0 libdbus-1-3 libfontconfig1 libxkbcommon0 libxkbcommon-x11-0 libxcb-cursor0
libxcb-icccm4 libxcb-keysyms1 libxcb-image0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 fonts-dejavu-core"
missing=""
for package in $wanted; do
  # Newer releases renamed some libraries with a t64 suffix.
  dpkg-query -W -f='${Status}\n' "$package" "${package}t64" 2>/dev/null | grep -q "install ok installed" ||
    missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then as_root="sudo -n"; else
    echo "The window needs these system libraries; please run: sudo apt-get install$missing" >&2
    exit 0
  fi
fi
echo "Installing system libraries for the window:$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # the list is meant to split into words
if ! { $as_root apt-get update -qq && $as_root apt-get install -y -qq $missing; } >/dev/null 2>&1; then
  echo "The window needs these system libraries, which could not be installed; please run: apt-get install$missing" >&2
fi
