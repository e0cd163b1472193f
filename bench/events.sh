#!/usr/bin/env bash
# What the event log takes in and gives out on this machine; see --help.
set -euo pipefail
export LC_ALL=C

usage() {
  cat <<'END'
usage: bench/events.sh [--quick] [--events 5000000] [--seconds 60] [--out FILE]
                       [--dir DIR] [--keep] [--bin DIR]

Measures the event log of the monolith on the embedded storage, each event about 300 bytes:

  burst   1 million events as NDJSON in batches of 500, each batch acknowledged on disk:
          events a second until the last is acknowledged, and until all are projected
  paced   10,000 events a second for --seconds, and meanwhile every 20 ms a single event,
          awaited on the read side: how far the projection lags
  single  one event a request, 64 connections, beside a bare handler with the same bodies,
          in turn
  pages   at --events events: first pages by session, category, time range, customer and
          name; and a walk by cursor through 10,000 pages, its end beside its beginning

Memory and disk are shown after each. It builds the workspace's release binaries, or takes
those in --bin; installs wrk where it is missing (as root or with sudo); starts everything
on free ports of 127.0.0.1, ends it by process id, and removes its folder. It takes about
20 minutes and 15 GB.

  --quick   100,000 events and runs of 3 s, to see that it works
END
}

QUICK= EVENTS=5000000 BURST=1000000 TIME=60 PAGES=10000 RATE=10000 OUT= DIR= KEEP= BIN=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) QUICK=1 EVENTS=100000 BURST=50000 TIME=3 PAGES=1000 ;;
    --events) EVENTS=${2:?} && shift ;;
    --seconds) TIME=${2:?} && shift ;;
    --out) OUT=$(realpath -m "${2:?}") && shift ;;
    --dir) DIR=$(realpath -m "${2:?}") && shift ;;
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
die() { printf 'bench/events.sh: %s\n' "$*" >&2 && exit 1; }
calc() { awk "BEGIN { printf \"%.6g\", $* }"; }
ms() { calc "$1 / 1000"; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

if ! command -v wrk >/dev/null; then
  say "installing wrk"
  as_root apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends wrk >&2
fi
if [ -z "$BIN" ]; then
  say "cargo build --release -p bench -p monolith"
  (cd "$ROOT" && cargo build --release -p bench -p monolith >&2)
  BIN=$(cd "$ROOT" && realpath -m "${CARGO_TARGET_DIR:-target}")/release
fi

if [ -z "$DIR" ]; then
  DIR=$(mktemp -d /var/tmp/qaservice-bench.XXXXXX)
else
  mkdir -p "$DIR"
  [ -z "$(ls -A "$DIR")" ] || die "--dir $DIR is not empty"
fi
case $(stat -f -c %T "$DIR") in
  tmpfs | ramfs) die "$DIR is in memory: give a --dir on a disk" ;;
esac
[ -n "$OUT" ] || OUT=$(mktemp "${TMPDIR:-/tmp}/qaservice-events.XXXXXX.tsv")
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

read -r -a PORT < <("$BIN/load" ports --count 4)
WRITE=http://127.0.0.1:${PORT[0]} READ=http://127.0.0.1:${PORT[1]} BARE=http://127.0.0.1:${PORT[3]}

declare -A M PID
take() {
  local pair line
  M=()
  line=$(grep '^BENCH ' "$DIR/out") || { cat "$DIR/out" >&2 && die "no figures"; }
  for pair in ${line#BENCH }; do M[${pair%%=*}]=${pair#*=}; done
}
measure() { "$@" >"$DIR/out" 2>"$DIR/err" || { cat "$DIR/out" "$DIR/err" >&2 && die "$* failed"; } && take; }
# Waits until a position can be read; how long that took is in M[seconds].
await() { measure "$BIN/load" await --url "$READ" --path "/v1/events?limit=1" --position "$1" --timeout 3600; }
sizes() {
  local kind
  for kind in VmRSS RssAnon VmHWM; do
    row "$1/${kind,,}" "$(awk -v k="$kind:" '$1 == k { printf "%.1f", $2 * 1024 / 1e6 }' "/proc/${PID[service]}/status")" MB
  done
  row "$1/disk" "$(calc "$(du -s -B1 "$DIR/data" | cut -f1) / 1e6")" MB
}

# Away from the checkout, so that no .env of the user's is read.
(cd "$DIR" && exec env -u EVENTSTORE_HOST -u MONGODB_HOST IP_PORT="127.0.0.1:${PORT[0]},127.0.0.1:${PORT[1]}" \
  ADMIN_ADDR="127.0.0.1:${PORT[2]}" DATA_DIR="$DIR/data" LOG_FORMAT=json "$BIN/monolith" >>"$DIR/service.log" 2>&1) &
PID[service]=$!
"$BIN/bare" --listen "${BARE#http://}" >>"$DIR/bare.log" 2>&1 &
PID[bare]=$!
"$BIN/load" ready --url "$READ" --timeout 60 >/dev/null || die "the service did not become ready"

say "a burst of $BURST events in batches of 500"
began=$EPOCHREALTIME
measure "$BIN/load" ingest --url "$WRITE" --count "$BURST"
row burst/rate "${M[rate]}" events/s "acknowledged on disk; wanted 40,000"
row burst/p99 "$(ms "${M[p99_us]}")" ms "a batch"
await "${M[position]}"
row burst/projected "$(calc "$BURST / ($EPOCHREALTIME - $began)")" events/s "until all can be read; wanted 15,000"
sizes burst

say "$RATE events/s for $TIME s"
"$BIN/load" ingest --url "$WRITE" --first "$BURST" --rate "$RATE" --seconds "$TIME" >"$DIR/paced" 2>&1 &
paced=$!
sleep 1
measure "$BIN/load" event-lag --url "$WRITE" --read "$READ" --seconds $((TIME - 2))
wait "$paced" || { cat "$DIR/paced" >&2 && die "the load failed"; }
row paced/lag_p50 "$(ms "${M[p50_us]}")" ms
row paced/lag_p99 "$(ms "${M[p99_us]}")" ms "wanted 250 at most"
row paced/lag_longest "$(ms "${M[max_us]}")" ms
mv "$DIR/paced" "$DIR/out" && take
row paced/rate "${M[rate]}" events/s "wanted $RATE"
row paced/p99 "$(ms "${M[p99_us]}")" ms "from when a batch of 500 was due to its acknowledgement"
await "${M[position]}"
sizes paced

say "single events, 64 connections, beside a bare handler"
for round in 1 2; do
  for server in bare service; do
    url=$WRITE
    [ $server = service ] || url=$BARE
    measure wrk -t2 -c64 -d"${TIME}s" --timeout 30s -s "$HERE/events.lua" "$url"
    [ "${M[status_errors]}${M[socket_errors]}" = 00 ] || die "${M[status_errors]} answers were not 2xx"
    row single/$server/rate "${M[rate]}" req/s "round $round, p50 $(ms "${M[p50_us]}") ms, p99 $(ms "${M[p99_us]}") ms"
    [ $server = service ] || bare=${M[rate]}
  done
  row single/ratio "$(calc "${M[rate]} / $bare")" "" "round $round; wanted 0.4"
done
sizes single

FIRST=$((BURST + RATE * TIME))
if [ "$FIRST" -lt "$EVENTS" ]; then
  say "filling up to $EVENTS events"
  measure "$BIN/load" ingest --url "$WRITE" --first "$FIRST" --count $((EVENTS - FIRST))
  row fill/rate "${M[rate]}" events/s "acknowledged"
  began=$EPOCHREALTIME
  await "${M[position]}"
  row fill/behind "$(calc "$EPOCHREALTIME - $began")" s "until all can be read, after the last acknowledgement"
  sizes fill
fi

say "pages at $EVENTS events"
for what in session category range customer name; do
  measure "$BIN/load" pages --url "$READ" --what $what --count "$EVENTS" --seconds $((TIME / 6 + 2))
  row pages/$what/p50 "$(ms "${M[p50_us]}")" ms "${M[count]} pages, ${M[rows]} events"
  row pages/$what/p99 "$(ms "${M[p99_us]}")" ms "wanted 10 at most"
done
measure "$BIN/load" walk --url "$READ" --pages "$PAGES"
row walk/first "$(ms "${M[first_us]}")" ms "median of the first 100 pages"
row walk/last "$(ms "${M[last_us]}")" ms "median of the last 100 of ${M[pages]}"
row walk/ratio "$(calc "${M[last_us]} / ${M[first_us]}")" "" "wanted 1.5 at most"
sizes pages
say "results: $OUT"
