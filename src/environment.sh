# Sourced by train.sh and test.sh: .venv in the root with the packages of a requirements file.
#
#     make_environment requirements.txt    # sets PYTHON to the environment's interpreter
#
# What is installed stands in a stamp file, so the next call is instant; an edited requirements
# file installs again.

fail() {
  echo "error: $*" >&2
  exit 2
}

find_python() { # the first Python that can make an environment, 3.11 or newer
  local name
  for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
    if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
      >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  fail "no Python 3.11 or newer with venv and pip was found; install one (python3.11, python3.11-venv)"
}

make_environment() { # requirements file, by its name in the root
  local root venv stamp base name
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv="$root/.venv"
  PYTHON="$venv/bin/python"
  stamp="$venv/.installed-$1"
  if [[ -x $PYTHON ]] && cat "$root/requirements.txt" "$root/$1" | cmp -s - "$stamp"; then
    return
  fi
  if ! "$PYTHON" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    base=$(find_python)
    echo "making .venv with $("$base" --version)"
    "$base" -m venv --clear "$venv" || fail "$venv could not be made"
  fi
  echo "installing $1"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/$1" ||
    fail "the packages of $1 could not be installed (see above); run the command again"
  for name in requirements.txt "$1"; do # the development packages include the others
    cat "$root/requirements.txt" "$root/$name" >"$venv/.installed-$name"
  done
}
