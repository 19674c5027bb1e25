# Sourced by the comparisons with other libraries: the environment of such a library.
# Needs PYTHON, this project's interpreter, and `fail MESSAGE`.

# make_environment VENV REQUIREMENTS: nothing to do where the requirements are installed already
make_environment() {
  local base venv=$1 needs=$2
  cmp -s "$needs" "$venv/.installed" && return
  [[ ! -e $venv || -f $venv/pyvenv.cfg ]] || fail "$venv is no environment; name another folder"
  for base in python3.11 python3.12 "$PYTHON"; do
    "$base" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
      2>/dev/null && break
    base=
  done
  [[ -n $base ]] || fail "$needs needs Python 3.11 or 3.12"
  echo "installing the packages of $needs in $venv" >&2
  "$base" -m venv "$venv"
  echo '*' >"$venv/.gitignore"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$needs" >&2 ||
    fail "the packages of $needs could not be installed (see above); run the command again"
  cp "$needs" "$venv/.installed"
}
