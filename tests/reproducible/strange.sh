# Runs in mount and host-name namespaces of its own, as root of them: builds the strange world at $1 and runs the rest of the words there.
#
#   sh strange.sh WORLD DF OUT FROM USER WORDS...      furnishes for USER (a number); WORDS become that user themselves
#
# What varies: directory and its depth, file system and the order of its entries, host name, user, umask, locale, time zone, number of cores, order
# and number of variables, cargo's home and the toolchain's place, and the clock that df reads (programs in a room read the machine's; nobody can give
# them another without a machine of their own, so for them it varies by the time that passes between the two builds).
set -eu
world=$1 df=$2 out=$3 from=$4 user=$5
shift 5
sysroot=$(rustc --print sysroot)
registry=${CARGO_HOME:-$HOME/.cargo}/registry

echo strange-host-of-nobody > /proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs "$world"
deep=$world/a/deeper/place/with-a-longer-name
mkdir -p "$deep/state" "$deep/cache" "$deep/home" "$world/bin" "$world/out" "$world/rust" "$world/cargo/registry/cache" "$world/from"
mount --bind "$sysroot" "$world/rust"
# What was fetched, as the registry packed it; unpacked files may be closed to others, so here they are unpacked anew.
mount --bind "$registry/cache" "$world/cargo/registry/cache"
cp -r "$registry/index" "$world/cargo/registry/index"
mount --bind "$out" "$world/out"
cp "$df" "$world/bin/df"
# In another order than they were made in.
(cd "$from" && find . -type d | sort -r) | while read -r dir; do mkdir -p "$world/from/$dir"; done
(cd "$from" && find . -type f | sort -r) | while read -r file; do cp -p "$from/$file" "$world/from/$file"; done
cat > "$world/clock.c" << 'C'
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
enum { AHEAD_S = 40000000 };
int clock_gettime(clockid_t id, struct timespec *now) {
  int result = syscall(SYS_clock_gettime, id, now);
  if (result == 0 && id == CLOCK_REALTIME) now->tv_sec += AHEAD_S;
  return result;
}
int gettimeofday(struct timeval *now, void *zone) {
  struct timespec t;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &t);
  now->tv_sec = t.tv_sec;
  now->tv_usec = t.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (at) *at = t.tv_sec;
  return t.tv_sec;
}
C
cc -shared -fPIC -O1 -o "$world/bin/clock.so" "$world/clock.c"
# Not what is bound from outside, but for the directory that takes what was built.
chown -R "$user:$user" "$world/a" "$world/from"
chown "$user:$user" "$world/cargo" "$world/cargo/registry" "$world/out"
chown -R "$user:$user" "$world/cargo/registry/index"
cpu=$(taskset -cp $$ | sed 's/.*: *\([0-9]*\).*/\1/')
umask 077
cd "$deep"
exec taskset -c "$cpu" env -i TZ=Asia/Kathmandu ZZ_LAST=1 LC_ALL=de_DE.UTF-8 LANG=de_DE.UTF-8 LANGUAGE=de PLACE="$deep" FROM="$world/from" OUT="$world/out" \
  CLOCK="$world/bin/clock.so" EDITOR=false HOME="$deep/home" XDG_CACHE_HOME="$deep/cache" CARGO_HOME="$world/cargo" CARGO_NET_OFFLINE=true CARGO_BUILD_JOBS=1 \
  DF="$world/bin/df" PATH="$world/rust/bin:/usr/local/bin:/usr/bin:/bin" AA_FIRST=1 NO_COLOR=1 "$@"
