# shellcheck shell=bash
# What the scripts here need of a machine, and how it gets there: named first, installed only with permission. Meant to be sourced
# after say.sh.
#
#   need program git git         the command `git`, from the Debian package `git`
#   need header zlib.h zlib1g-dev
#   need venv venv python3-venv  Python's own environments
#   need_room 14 target          14 GB of disk below that directory, what lies in it already included
#   settle "$yes"                installs what is missing with permission ($yes = yes, or CI=true), or says what to type and fails

MISSING=()
WHY=()

need() { # KIND WHAT PACKAGE
  case $1 in
    program) has_program "$2" && return ;;
    header) has_header "$2" && return ;;
    pip) has_pip && return ;;
    venv) has_venv && return ;;
    *) fail "unknown kind of need: $1" ;;
  esac
  WHY+=("$2 (package $3)")
  local known
  for known in "${MISSING[@]}"; do [[ $known == "$3" ]] && return; done
  MISSING+=("$3")
}

settle() { # YES
  need_rust
  ((${#MISSING[@]})) || return 0
  say "missing here: $(join ', ' "${WHY[@]}")"
  local root=() install
  ((EUID == 0)) || root=(sudo)
  install="${root[*]:+${root[*]} }apt-get install -y --no-install-recommends ${MISSING[*]}"
  command -v apt-get > /dev/null || fail "this is neither Debian nor Ubuntu: install what is named above by your own means, then run this again"
  if [[ $1 != yes && ${CI:-} != true ]]; then
    fail "run this again with --yes to install it, or type: $install"
  fi
  ((EUID == 0)) || command -v sudo > /dev/null || fail "only root can install; as root type: $install"
  say "installing: $install"
  local log
  log=$(mktemp)
  # The lists of a fresh machine are empty, so update first.
  if ! { "${root[@]}" apt-get update && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${MISSING[@]}"; } > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "the packages could not be installed; all that apt-get said is in $log"
  fi
  rm -f "$log"
}

# Fails at once rather than after an hour of building.
need_room() { # GB DIRECTORY
  local wanted=$1 there=$2 free held=0
  while [[ ! -d $there ]]; do there=$(dirname "$there"); done
  # Not by `df`, which may be the one of this repository.
  free=$(($(stat -f -c '%a * %S' -- "$there") / 1000000))
  ((free < wanted * 1000)) || return 0
  if [[ -d $2 ]]; then held=$(($(du -sk -- "$2" | cut -f1) * 1024 / 1000000)); fi
  ((free + held < wanted * 1000)) || return 0
  fail "$wanted GB are needed where $2 lies: $free MB are free and it holds $held MB already; make room, or name a directory elsewhere by CARGO_TARGET_DIR"
}

# Rust is not installed by us: which way is the person's choice.
need_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
  command -v cargo > /dev/null || fail "Rust $wanted or newer is missing: https://rustup.rs has one line to type"
  found=$(rustc --version | cut -d' ' -f2)
  [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) == "$wanted" ]] || fail "Rust $found is too old, $wanted is needed: rustup update"
}

# sbin is not on the PATH of every login.
has_program() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" > /dev/null; }

has_header() { echo "#include <$1>" | cc -E - > /dev/null 2>&1; }

has_pip() { "${PYTHON:-python3}" -m pip --version > /dev/null 2>&1; }

# Debian ships the module without what it needs.
has_venv() { "${PYTHON:-python3}" -c 'import venv, ensurepip' > /dev/null 2>&1; }

join() { # SEPARATOR WORD...
  local separator=$1 all=$2 word
  for word in "${@:3}"; do all+=$separator$word; done
  echo "$all"
}
