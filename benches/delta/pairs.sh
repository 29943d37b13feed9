#!/bin/bash
# Makes real pairs of versions to measure deltas on: DF_BENCH_DIR/pairs/NAME/{v1,v2}.
#
#     DF_BENCH_DIR=/abs/dir benches/delta/pairs.sh [wheels|npm|cargo]...
#
# Everything comes from public registries by their ordinary clients (pip, npm, cargo), at fixed versions; a pair that is there is left alone.
# `cargo` compiles two programs twice and each once more with one line changed: ten minutes or more of two cores.
set -u
ROOT=${DF_BENCH_DIR:?an absolute directory to work in}
PAIRS=$ROOT/pairs BUILD=$ROOT/build
mkdir -p "$PAIRS" "$BUILD"

# into PAIR SIDE COMMAND...: runs the command in an empty directory, and names it PAIR/SIDE only when all went well.
into() {
  local side=$PAIRS/$1/$2 made=$PAIRS/$1/made; shift 2
  [ -d "$side" ] && return
  rm -rf "$made"; mkdir -p "$made"
  if (cd "$made" && "$@") >>"$ROOT/pairs.log" 2>&1; then
    find "$made" -name __pycache__ -prune -exec rm -rf {} +
    mv "$made" "$side"
  else
    echo "failed: ${side#"$PAIRS"/} ($*)" >&2; rm -rf "$made"
  fi
}

# --- Python: C, C++, Cython, Rust and plain text
pip_here() { python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --no-deps --only-binary=:all: --target . "$@"; }
wheel() { into "$1" v1 pip_here "$2==$3"; into "$1" v2 pip_here "$2==$4"; }
wheels() {
  wheel numpy        numpy        1.26.3 1.26.4     # C, Fortran and Cython: 20 libraries of which most were only relinked
  wheel pillow       pillow       10.3.0 10.4.0     # C with its image libraries beside it
  wheel lxml         lxml         5.2.1  5.2.2      # Cython: few, large libraries
  wheel cryptography cryptography 42.0.7 42.0.8     # Rust and OpenSSL in one library
  wheel orjson       orjson       3.10.5 3.10.6     # a small Rust library
  wheel ruff         ruff         0.5.1  0.5.2      # a large Rust program, stripped
  wheel clang-format clang-format 18.1.7 18.1.8     # a C++ program
  wheel django       django       5.0.1  5.0.2      # 4,000 small text files
}

# --- npm: text as people ship it, and a Go program
npm_here() { npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts "$@"; }
package() { into "$1" v1 npm_here "$2@$3"; into "$1" v2 npm_here "$2@$4"; }
npm_pairs() {
  package typescript typescript          5.5.3  5.5.4     # files of 5 to 9 MB of JavaScript
  package prettier   prettier            3.3.2  3.3.3     # bundled and minified JavaScript
  package eslint     eslint              9.5.0  9.6.0     # an application with its packages: many small files
  package esbuild    @esbuild/linux-x64  0.21.4 0.21.5    # a Go program
}

# --- cargo: Rust programs, release to release, and with one line changed
export CARGO_TARGET_DIR=$BUILD/target
installed() { [ -x "$BUILD/$1-$2/bin/$3" ] || nice cargo install --quiet --locked --root "$BUILD/$1-$2" "$1" --version "$2"; }
program() { # PAIR NAME FILE1 FILE2: as it was linked, and stripped
  for kind in stripped unstripped; do
    for side in 1 2; do
      local from; [ $side = 1 ] && from=$3 || from=$4
      into "$1-$kind" v$side sh -c "mkdir bin && cp '$from' bin/$2 && if [ $kind = stripped ]; then strip bin/$2; fi"
    done
  done
}
# one_line SHORT CRATE VERSION BIN MAIN PATTERN LINE: LINE goes in below the first line of MAIN that PATTERN matches
one_line() {
  [ -d "$PAIRS/$1-line-unstripped/v2" ] && return
  local source=$BUILD/src-$1
  rm -rf "$source"; cp -r "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$2-$3" "$source"
  compiled() { (cd "$source" && nice cargo build --quiet --release --locked && cp "$CARGO_TARGET_DIR/release/$1" "$2"); }
  compiled "$4" "$BUILD/$1-line1" || return
  sed -i "0,/$6/s//&\n    $7/" "$source/$5"
  compiled "$4" "$BUILD/$1-line2" || return
  program "$1-line" "$4" "$BUILD/$1-line1" "$BUILD/$1-line2"
}
cargo_pairs() {
  installed ripgrep 14.1.0 rg; installed ripgrep 14.1.1 rg
  program rg-rel rg "$BUILD/ripgrep-14.1.0/bin/rg" "$BUILD/ripgrep-14.1.1/bin/rg"
  one_line rg ripgrep 14.1.1 rg crates/core/main.rs '^fn run(.*{$' 'if std::env::var_os("RG_PROBE_EXIT").is_some() { return Ok(ExitCode::from(7)); }'
  installed hexyl 0.15.0 hexyl; installed hexyl 0.16.0 hexyl
  program hexyl-rel hexyl "$BUILD/hexyl-0.15.0/bin/hexyl" "$BUILD/hexyl-0.16.0/bin/hexyl"
  one_line hexyl hexyl 0.16.0 hexyl src/main.rs '^fn main().*{$' 'if std::env::var_os("HEXYL_PROBE_EXIT").is_some() { std::process::exit(7); }'
}

for what in "${@:-all}"; do
  case $what in
    wheels) wheels ;; npm) npm_pairs ;; cargo) cargo_pairs ;;
    all) wheels; npm_pairs; cargo_pairs ;;
    *) echo "no such pairs: $what" >&2; exit 2 ;;
  esac
done
for pair in "$PAIRS"/*/; do
  echo "$(basename "$pair"): $(find "$pair/v2" -type f | wc -l) files, $(du -sb "$pair/v2" | cut -f1) bytes"
done
