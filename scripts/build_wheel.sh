#!/bin/sh
# A wheel with the native token step ready-made, in dist/: for machines of this kind that have no compiler.
set -eu
cd "$(dirname "$0")/.."
"${PYTHON:-.venv/bin/python}" -m pip wheel --quiet --no-deps --wheel-dir dist .
wheel=$(ls -t dist/gpt_dyno-*.whl | head -1)
"${PYTHON:-.venv/bin/python}" -m zipfile --list "$wheel" | grep -q engine/native/libdyno ||
  { echo "The wheel has no native token step: is there a C++ compiler?"; exit 1; }
echo "$wheel"
