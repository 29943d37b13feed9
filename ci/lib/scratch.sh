# shellcheck shell=bash
# A fresh directory with a clone of this repository, whose greeter is deployed to nodes in the same directory. Meant to be sourced after say.sh.
#
# Sets SCRATCH (the directory), CLONE (the clone in it) and PORT (free on the nodes' loopback addresses).

NODES=(one two three)

scratch_make() { # WORD
  SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/df-$1.XXXXXX")
  SCRATCH=$(cd "$SCRATCH" && pwd -P)
  CLONE=$SCRATCH/greeter
}

# Clones HEAD. The clone shares nothing with the repository, which is not touched. Its port is that of df.yaml, unless somebody has it here:
# then a commit in the clone takes another.
scratch_greeter() { # REPOSITORY
  git clone --quiet --no-hardlinks "$1" "$CLONE"
  git -C "$CLONE" remote remove origin
  local wanted
  wanted=$(sed -n 's/^  ports: { http: \([0-9]*\) }.*/\1/p' "$CLONE/df.yaml")
  PORT=$(free_port "$wanted")
  [[ $PORT != "$wanted" ]] || return 0
  sed -i "s/^  ports: { http: [0-9]* }/  ports: { http: $PORT }/" "$CLONE/df.yaml"
  commit "df.yaml: listen on $PORT, because $wanted is taken here"
}

# The next version of the greeter, as a commit of the clone.
scratch_change() { # GREETING
  local source=$CLONE/crates/reload/examples/greeter.rs
  sed -i "s/^const GREETING: &str = .*/const GREETING: \&str = \"$1\";/" "$source"
  if git -C "$CLONE" diff --quiet; then fail "the greeting did not change: $source"; fi
  commit "greeter: say $1"
}

# With a name of its own, and without what a person's configuration would add (hooks, a signature).
commit() { # WORDS
  git -C "$CLONE" add -A
  git -C "$CLONE" -c user.name=df -c user.email=df@localhost -c core.hooksPath=/dev/null -c commit.gpgSign=false commit --quiet -m "$1"
}

# The cache is in the scratch directory too: what a person has cached is neither used nor changed.
scratch_df() { # DF ARGUMENT...
  XDG_CACHE_HOME=$SCRATCH/cache "$1" -C "$CLONE" "${@:2}"
}

# The first port from WANTED on that nobody listens on, on the first loopback addresses of local nodes.
free_port() { # WANTED
  local port n
  for ((port = $1; port < $1 + 20; port++)); do
    for n in 1 2 3; do
      if (exec 3<> "/dev/tcp/127.77.0.$n/$port") 2> /dev/null; then continue 2; fi
    done
    echo "$port"
    return
  done
  fail "twenty ports from $1 on are taken on 127.77.0.1"
}

# One GET over HTTP/1.1 by bash alone; prints the body. Curl may not be there.
get() { # HOST PORT PATH
  local line status
  exec 9<> "/dev/tcp/$1/$2" || return
  printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$3" "$1" >&9
  read -r -t 10 -u 9 _ status _ || return
  while read -r -t 10 -u 9 line && [[ $line != $'\r' ]]; do :; done
  while read -r -t 10 -u 9 line; do printf '%s\n' "${line%$'\r'}"; done
  exec 9<&-
  [[ $status == 200 ]]
}

# The processes that run from the scratch directory or work in it, by id.
scratch_processes() {
  local process link
  for process in /proc/[0-9]*; do
    for link in exe cwd; do
      [[ $(readlink "$process/$link" 2> /dev/null) == "$SCRATCH"/* ]] || continue
      echo "${process#/proc/}"
      break
    done
  done
}

# Ends what still runs there, by id; what was started as a service of a node is told first.
scratch_end() {
  local signal pids n
  for signal in TERM KILL; do
    for ((n = 0; n < 50; n++)); do
      pids=$(scratch_processes)
      [[ -n $pids ]] || return 0
      # shellcheck disable=SC2086 # one word each
      if ((n == 0)); then kill "-$signal" $pids 2> /dev/null || true; fi
      sleep 0.1
    done
  done
  return 1
}

scratch_remove() {
  scratch_end || true
  # Images are read-only.
  chmod -R u+w "$SCRATCH" 2> /dev/null || true
  rm -rf "$SCRATCH"
}
