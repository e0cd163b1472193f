#!/usr/bin/env bash
# What a rebuild of the views takes, and what it does to those who write and read; see --help.
set -euo pipefail
export LC_ALL=C

usage() {
  cat <<'END'
usage: bench/rebuild.sh [--keys 1000000] [--rate 2000] [--rounds 3] [--out FILE] [--bin DIR] [--keep]

Fills the monolith's embedded storage with --keys answers, then asks for a rebuild while
--rate single POSTs a second come in on 16 connections and two readers GET keys at random.
POST latencies count from when each was due. A status that is no 2xx ends the run. Beside
that a bare file gets 200 bytes and an fdatasync 200 times a second: what the disk itself
makes one wait meanwhile.

It builds the workspace's release binaries, or takes those in --bin; starts everything on
free ports of 127.0.0.1, ends it by process id, and removes its folder. It takes about two
minutes and 2 GB.
END
}

KEYS=1000000 RATE=2000 ROUNDS=3 OUT= BIN= KEEP=
while [ $# -gt 0 ]; do
  case $1 in
    --keys) KEYS=${2:?} && shift ;;
    --rate) RATE=${2:?} && shift ;;
    --rounds) ROUNDS=${2:?} && shift ;;
    --out) OUT=$(realpath -m "${2:?}") && shift ;;
    --bin) BIN=$(realpath "${2:?}") && shift ;;
    --keep) KEEP=1 ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'bench/rebuild.sh: %s\n' "$*" >&2 && exit 1; }
calc() { awk "BEGIN { printf \"%.6g\", $* }"; }

if [ -z "$BIN" ]; then
  say "cargo build --release -p bench -p monolith"
  (cd "$ROOT" && cargo build --release -p bench -p monolith >&2)
  BIN=$(cd "$ROOT" && realpath -m "${CARGO_TARGET_DIR:-target}")/release
fi
DIR=$(mktemp -d /var/tmp/qaservice-bench.XXXXXX)
[ -n "$OUT" ] || OUT=$(mktemp "${TMPDIR:-/tmp}/qaservice-rebuild.XXXXXX.tsv")
printf 'name\tvalue\tunit\tnote\n' >"$OUT"
row() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4-}" | tee -a "$OUT" >&2; }

cleanup() {
  local status=$? pid
  for pid in $(jobs -p); do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" -ne 0 ]; then tail -n 5 "$DIR"/*.log >&2 2>/dev/null || true; fi
  if [ -z "$KEEP" ]; then rm -rf "$DIR"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

declare -A M
measure() {
  local pair line
  "$@" >"$DIR/out" 2>"$DIR/err" || { cat "$DIR/out" "$DIR/err" >&2 && die "$* failed"; }
  M=()
  line=$(grep '^BENCH ' "$DIR/out") || { cat "$DIR/out" >&2 && die "no figures"; }
  for pair in ${line#BENCH }; do M[${pair%%=*}]=${pair#*=}; done
}

read -r -a PORT < <("$BIN/load" ports --count 3)
WRITE=http://127.0.0.1:${PORT[0]} READ=http://127.0.0.1:${PORT[1]} ADMIN=http://127.0.0.1:${PORT[2]}
# Away from the checkout, so that no .env of the user's is read.
(cd "$DIR" && exec env -u EVENTSTORE_HOST -u MONGODB_HOST IP_PORT="127.0.0.1:${PORT[0]},127.0.0.1:${PORT[1]}" \
  ADMIN_ADDR="127.0.0.1:${PORT[2]}" DATA_DIR="$DIR/data" LOG_FORMAT=json "$BIN/monolith" >>"$DIR/service.log" 2>&1) &
"$BIN/load" ready --url "$READ" --timeout 60 >/dev/null || die "the service did not become ready"

say "filling it with $KEYS answers"
measure "$BIN/load" batch --url "$WRITE" --keys "$KEYS"
measure "$BIN/load" mark --url "$WRITE"
"$BIN/load" await --url "$READ" --key "${M[key]}" --position "${M[position]}" >/dev/null || die "the views did not catch up"
sleep 10

for round in $(seq "$ROUNDS"); do
  say "rebuild $round, $RATE POSTs a second meanwhile"
  measure "$BIN/load" rebuild --url "$WRITE" --read "$READ" --admin "$ADMIN" --keys "$KEYS" --rate "$RATE" --dir "$DIR"
  row rebuild/seconds "${M[seconds]}" s "round $round, $KEYS answers; wanted 15 at most for a million"
  row rebuild/post_p50 "$(calc "${M[post_p50_us]} / 1000")" ms "round $round, ${M[post_count]} POSTs"
  row rebuild/post_p99 "$(calc "${M[post_p99_us]} / 1000")" ms "round $round; wanted 20 at most"
  row rebuild/post_longest "$(calc "${M[post_max_us]} / 1000")" ms "round $round"
  row rebuild/read_p99 "$(calc "${M[read_p99_us]} / 1000")" ms "round $round, ${M[read_count]} GETs, none failed"
  row rebuild/disk_p99 "$(calc "${M[disk_p99_us]} / 1000")" ms "round $round, 200 bytes and fdatasync beside it, nothing else"
  row rebuild/disk_longest "$(calc "${M[disk_max_us]} / 1000")" ms "round $round"
  row rebuild/read_longest "$(calc "${M[read_max_us]} / 1000")" ms "round $round"
done
say "results: $OUT"
