#!/bin/sh
# Print the Python that the set-up uses: $PYTHON, that of a complete .venv, or the newest of 3.10 to 3.13 on the PATH.
# Run: sh tools/find_python.sh

suits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

if [ -n "$PYTHON" ]; then
    if suits "$PYTHON"; then
        echo "$PYTHON"
        exit
    fi
    version=$("$PYTHON" -c 'import platform; print("Python " + platform.python_version())' 2>/dev/null)
    echo "PYTHON=$PYTHON is ${version:-not a Python that runs}; it must be Python 3.10 to 3.13 with venv and ensurepip." >&2
    exit 1
fi

if [ -f .venv/.made ] && [ -x .venv/bin/python ]; then
    echo .venv/bin/python
    exit
fi

for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
    if suits "$name"; then
        command -v "$name"
        exit
    fi
done
version=$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null)
echo "No Python 3.10 to 3.13 with venv and ensurepip on the PATH (python3 is ${version:-missing}): install one, or set PYTHON=/path/to/python3.12." >&2
exit 1
