# shellcheck shell=bash
# How the scripts here speak: headings, results and failures, with seconds. Meant to be sourced.

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

heading() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }
say() { printf '%s\n' "$*"; }
note() { printf '%s%s%s\n' "$DIM" "$*" "$PLAIN"; }
good() { printf '%s%s%s\n' "$GREEN" "$*" "$PLAIN"; }
bad() { printf '%s%s%s\n' "$RED" "$*" "$PLAIN" >&2; }

fail() {
  bad "${0##*/}: $*"
  exit 1
}

# Milliseconds since some fixed moment. EPOCHREALTIME follows the clock of the machine, which is good enough for a report;
# its decimal separator follows the locale.
now_ms() {
  local us=${EPOCHREALTIME/[.,]/}
  echo $((us / 1000))
}

# 12345 -> 12.3
seconds() { printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100)); }

# Bytes for people: 512 B, 3.4 KiB, 7.1 MiB.
bytes() {
  local n=$1
  if ((n < 1024)); then
    echo "$n B"
  elif ((n < 1048576)); then
    printf '%d.%d KiB\n' $((n / 1024)) $((n % 1024 * 10 / 1024))
  else
    printf '%d.%d MiB\n' $((n / 1048576)) $((n % 1048576 * 10 / 1048576))
  fi
}

len_of() { stat -L -c %s -- "$1"; }
