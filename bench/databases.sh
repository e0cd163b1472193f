#!/usr/bin/env bash
# What the three services reach on the two databases; see --help.
set -euo pipefail

usage() {
  cat <<'END'
usage: bench/databases.sh [--seconds 20] [--out FILE] [--keep]

Measures the three services on the EventStoreDB test server (its append delay at 1 ms) and
on SecantusDB's server in Rust, which stands in for MongoDB:

  append   commands over HTTP with 64 callers beside a bare loop of the client's
           batch_append with 64 callers, in turn, with the processor time of each; one
           caller on known keys beside one bare caller
  project  how fast the projector writes what is in the log, beside what the server takes
           in bulk; and the lag at half that rate
  idle     processor time and memory of the processes that have nothing to do

It builds the workspace's release binaries and, once, the server (`cargo install
secantus-mdb`, some 12 minutes on two cores, into target/tools/secantus-rust); installs wrk and curl where
they are missing (as root or with sudo); starts everything on free ports of 127.0.0.1, ends
it by process id, and removes its folder.
END
}

TIME=20 OUT= KEEP=
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) TIME=${2:?} && shift ;;
    --out) OUT=$(realpath -m "${2:?}") && shift ;;
    --keep) KEEP=1 ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
SECANTUS_MDB=0.5.3-beta.196

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'bench/databases.sh: %s\n' "$*" >&2 && exit 1; }
calc() { awk "BEGIN { printf \"%.6g\", $* }"; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
for tool in wrk curl; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  as_root apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >&2
fi

cd "$ROOT"
say "cargo build --release"
cargo build --release --features bench/drivers -p bench -p testkit -p eventstore-svc -p projector-svc -p projection-svc >&2
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
BIN=$TARGET/release
SECANTUS=${SECANTUS_RUST:-$TARGET/tools/secantus-rust/bin/secantusd-rs}
if [ ! -x "$SECANTUS" ]; then
  say "building secantus-mdb $SECANTUS_MDB"
  cargo install secantus-mdb --version "$SECANTUS_MDB" --locked --ignore-rust-version \
    --root "$TARGET/tools/secantus-rust" >&2
fi

DIR=$(mktemp -d /var/tmp/qaservice-bench.XXXXXX)
[ -n "$OUT" ] || OUT=$DIR.tsv
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

read -r -a PORT < <("$BIN/load" ports --count 5)
EVENTS=127.0.0.1:${PORT[0]} VIEWS=127.0.0.1:${PORT[1]}
WRITE=http://127.0.0.1:${PORT[2]} READ=http://127.0.0.1:${PORT[3]} PROJECT=http://127.0.0.1:${PORT[4]}

declare -A PID M
start() {
  local name=$1
  shift
  (cd "$DIR" && exec env EVENTSTORE_HOST="$EVENTS" MONGODB_HOST="mongodb://$VIEWS" "$@" >>"$DIR/$name.log" 2>&1) &
  PID[$name]=$!
}
stop() { kill "${PID[$1]}" && wait "${PID[$1]}" 2>/dev/null || true; }
ticks() { awk '{ print $14 + $15 }' "/proc/${PID[$1]}/stat"; }
ready() { "$BIN/load" ready --url "$1" --timeout 60 >/dev/null || die "$1 did not become ready"; }
take() {
  local pair line
  M=()
  line=$(grep '^BENCH ' "$DIR/out") || { cat "$DIR/out" >&2 && die "no figures"; }
  for pair in ${line#BENCH }; do M[${pair%%=*}]=${pair#*=}; done
}
measure() { "$@" >"$DIR/out" 2>"$DIR/err" || { cat "$DIR/out" "$DIR/err" >&2 && die "$* failed"; } && take; }

start esdb "$BIN/esdb-testd" --listen "$EVENTS" --append-delay-ms 1
mkdir "$DIR/views"
# shellcheck disable=SC2086 # more than one word on purpose
start mongo "$SECANTUS" ${SECANTUS_ARGS:---port "${PORT[1]}" --storage-path "$DIR/views"}
start write env IP_PORT="${WRITE#http://}" "$BIN/eventstore-svc"
start read env IP_PORT="${READ#http://}" "$BIN/projection-svc"
ready "$WRITE"

say "commands with 64 callers, and one caller"
for round in 1 2; do
  measure "$BIN/drivers" append "$EVENTS" 64 "$TIME"
  row append/bare/rate "${M[rate]}" /s "round $round, p50 ${M[p50_us]} us, p99 ${M[p99_us]} us"
  bare=${M[rate]} before=$(ticks write)
  measure wrk -t2 -c64 -d"${TIME}s" --timeout 30s -s "$HERE/post.lua" "$WRITE" -- "databases-$$-$round"
  [ "${M[status_errors]}${M[socket_errors]}" = 00 ] || die "${M[status_errors]} answers were not 2xx"
  row append/http/rate "${M[rate]}" /s "round $round, p50 ${M[p50_us]} us, p99 ${M[p99_us]} us"
  row append/http/cpu "$(calc "($(ticks write) - $before) * 1e6 / $(getconf CLK_TCK) / ${M[count]}")" us/command "round $round"
  row append/ratio "$(calc "${M[rate]} / $bare")" "" "round $round; wanted 0.5"
done
measure "$BIN/drivers" append "$EVENTS" 1 "$TIME"
row one/bare/p50 "$(calc "${M[p50_us]} / 1000")" ms
measure "$BIN/load" known --url "$WRITE" --seconds "$TIME"
row one/http/p50 "$(calc "${M[p50_us]} / 1000")" ms "known keys; the delay is 1 ms; wanted 4 at most"
row one/http/p99 "$(calc "${M[p99_us]} / 1000")" ms

say "the projector, behind everything that is in the log"
measure "$BIN/drivers" bulk "mongodb://$VIEWS" "$TIME"
row project/bulk "${M[rate]}" documents/s "inserts of 1,000"
bulk=${M[rate]}
count=$(awk -F'\t' '$1 == "append/http/rate" { n += $2 } END { print n * '"$TIME"' }' "$OUT")
"$BIN/load" mark --url "$WRITE" >"$DIR/out" && take
began=$EPOCHREALTIME
start projector env IP_PORT="${PROJECT#http://}" "$BIN/projector-svc"
"$BIN/load" await --url "$READ" --key "${M[key]}" --position "${M[position]}" --timeout 600 >/dev/null || die "the views did not catch up"
seconds=$(calc "$EPOCHREALTIME - $began")
rate=$(calc "$count / $seconds")
row project/rate "$rate" events/s "about $count events in $seconds s, from the process's start"
row project/ratio "$(calc "$rate / $bulk")" "" "of bulk; wanted 0.8, or 5,000 events/s"
# Half of what is wanted, and half of what it can.
for half in 2500 "$(calc "int($rate / 2)")"; do
  "$BIN/load" paced --url "$WRITE" --rate "$half" --seconds "$TIME" >"$DIR/paced" 2>&1 &
  paced=$!
  sleep 1
  measure "$BIN/load" lag --url "$WRITE" --read "$READ" --seconds $((TIME - 2))
  wait "$paced" || { cat "$DIR/paced" >&2 && die "the load failed"; }
  row lag/load "$(sed -n 's/.*rate=\([0-9]*\).*/\1/p' "$DIR/paced")" commands/s "of $half"
  row lag/p50 "$(calc "${M[p50_us]} / 1000")" ms
  row lag/p99 "$(calc "${M[p99_us]} / 1000")" ms "wanted 250 at most at half of 5,000"
done

say "idle"
sleep 5
declare -A before
for name in write read projector; do before[$name]=$(ticks $name); done
sleep "$TIME"
for name in write read projector; do
  row "idle/$name/cpu" "$(calc "($(ticks $name) - ${before[$name]}) * 100 / $(getconf CLK_TCK) / $TIME")" "% of a core" "wanted below 1"
  row "idle/$name/memory" "$(awk '/^VmRSS/ { printf "%.1f", $2 * 1024 / 1e6 }' "/proc/${PID[$name]}/status")" MB "after the load"
done
# Memory of processes that were just started.
for name in write read projector; do stop $name; done
start write env IP_PORT="${WRITE#http://}" "$BIN/eventstore-svc"
start read env IP_PORT="${READ#http://}" "$BIN/projection-svc"
start projector env IP_PORT="${PROJECT#http://}" "$BIN/projector-svc"
ready "$WRITE" && ready "$READ" && ready "$PROJECT"
sleep "$TIME"
for name in write read projector; do
  row "idle/$name/fresh" "$(awk '/^VmRSS/ { printf "%.1f", $2 * 1024 / 1e6 }' "/proc/${PID[$name]}/status")" MB "after a start; wanted below 60"
done
say "results: $OUT"
