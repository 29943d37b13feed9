#!/usr/bin/env python3
"""What do other tools need for the same pairs?

    DF_BENCH_DIR=/abs/dir benches/delta/peers.py [--cached] [--tools A,B] [PAIR...]

Runs every tool on every pair below DF_BENCH_DIR/pairs and keeps what it saw in benches/results/delta-peers.json: bytes up and down, CPU
seconds of making and of applying, wall seconds, peak memory of the largest process, and whether the result is the target tree, byte for byte.
A figure is kept under the digest of the pair and the version and flags of the tool, so a second run measures only what is new; with --cached
nothing is run. Tools that patch one file get canonical tars (sorted, no times, no owners). What is not installed is left out, in words.

Debian: rsync zstd xdelta3 bsdiff casync ostree borgbackup nix-bin. HDiffPatch: `python3 -m venv DF_BENCH_DIR/venv`, then pip install detools.
"""
import argparse, hashlib, json, os, re, shutil, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, '..', 'results', 'delta-peers.json')
TIMEOUT_S = 900
# What a tar may not depend on.
CANONICAL = '--format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner'
# Above this bsdiff needs more memory and time than its figure is worth: 17 times the file.
BSDIFF_LIMIT = 120_000_000


class Failed(Exception):
    """A tool did not do what it was asked to; the text is the end of what it said."""


class Cost:
    """CPU and wall seconds and the peak of memory, summed over the commands of one end."""
    def __init__(self):
        self.cpu, self.wall, self.peak = 0.0, 0.0, 0.0


class Bench:
    """One pair in a directory of its own, and how to run a command there."""
    def __init__(self, root, pair):
        self.v1, self.v2 = (os.path.join(root, 'pairs', pair, v) for v in ('v1', 'v2'))
        self.at = tempfile.mkdtemp(prefix=f'{pair}.', dir=made(os.path.join(root, 'work')))
        self.t1, self.t2 = self.path('v1.tar'), self.path('v2.tar')
        self.venv = os.path.join(root, 'venv', 'bin')
        self.env = dict(os.environ, LC_ALL='C', HOME=self.at, BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK='yes',
                        BORG_CACHE_DIR=self.path('borg-cache'), BORG_CONFIG_DIR=self.path('borg-config'))
        for side, tar in ((self.v1, self.t1), (self.v2, self.t2)):
            self.run(f'tar {CANONICAL} -C {side} -cf {tar} .')

    def path(self, name):
        return os.path.join(self.at, name)

    def run(self, command, cost=None, cwd=None):
        """Runs a shell command to its end, adds what it took to `cost`, and returns what it said."""
        started = time.monotonic()
        child = subprocess.Popen(['timeout', str(TIMEOUT_S), 'bash', '-o', 'pipefail', '-c', command],
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, env=self.env)
        said = child.stdout.read().decode('utf8', 'replace')
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if cost:
            cost.cpu += usage.ru_utime + usage.ru_stime
            cost.wall += time.monotonic() - started
            cost.peak = max(cost.peak, usage.ru_maxrss / 1024)
        if child.returncode:
            raise Failed(said[-200:].strip().replace('\n', ' '))
        return said

    def size(self, name):
        return os.path.getsize(self.path(name))

    def stored(self, name):
        """The bytes of every file below `name`."""
        return sum(os.lstat(os.path.join(at, file)).st_size for at, _, files in os.walk(self.path(name)) for file in files)

    def is_target(self, tree):
        return subprocess.run(['diff', '-rq', '--no-dereference', self.v2, tree], stdout=subprocess.DEVNULL).returncode == 0

    def is_target_tar(self, tar):
        return subprocess.run(['cmp', '-s', self.t2, tar]).returncode == 0

    def close(self):
        subprocess.run(['chmod', '-R', 'u+w', self.at])
        shutil.rmtree(self.at, ignore_errors=True)


def made(directory):
    os.makedirs(directory, exist_ok=True)
    return directory


# Each tool: (bench, making, applying) -> (bytes up, bytes down, the result is the target).

def whole(b, making, applying):
    b.run(f'tar {CANONICAL} -C {b.v2} -c . | zstd -q -3 > {b.path("whole.zst")}', making)
    b.run(f'mkdir {b.path("out")} && zstd -dcq {b.path("whole.zst")} | tar -C {b.path("out")} -x', applying)
    return 0, b.size('whole.zst'), b.is_target(b.path('out'))


def rsync(b, making, _):
    # The stand-in for ssh runs the other end right here: both ends' CPU is in one figure, the bytes are those of the protocol.
    shell = b.path('here')
    with open(shell, 'w') as script:
        script.write('#!/bin/sh\nshift\nexec "$@"\n')
    os.chmod(shell, 0o755)
    b.run(f'cp -a {b.v1} {b.path("out")}')
    said = b.run(f'rsync --stats -e {shell} -a -c --no-whole-file -z --zc=zstd --delete {b.v2}/ there:{b.path("out")}/', making)
    sent, received = (int(re.search(rf'Total bytes {way}: ([\d,]+)', said).group(1).replace(',', '')) for way in ('sent', 'received'))
    return received, sent, b.is_target(b.path('out'))


def of_tars(make, apply):
    def tool(b, making, applying):
        names = dict(old=b.t1, new=b.t2, delta=b.path('delta'), out=b.path('out.tar'), venv=b.venv, window=max(os.path.getsize(b.t1), 1 << 20))
        b.run(make.format(**names), making)
        b.run(apply.format(**names), applying)
        return 0, b.size('delta'), b.is_target_tar(b.path('out.tar'))
    return tool


def casync(b, making, applying):
    # All times alike, as in the tars: else each would be a change. Without --with=unix it drops links.
    old, new, flags, store = b.path('old'), b.path('new'), '--with=unix', b.path('store')
    for side, copy in ((b.v1, old), (b.v2, new)):
        b.run(f'cp -a {side} {copy} && find {copy} -exec touch -h -d @0 {{}} +')
    b.run(f'casync make {flags} --store={store} {b.path("1.caidx")} {old}')
    held = b.stored('store')
    b.run(f'casync make {flags} --store={store} {b.path("2.caidx")} {new}', making)
    b.run(f'casync extract {flags} --store={store} --seed={old} {b.path("2.caidx")} {b.path("out")}', applying)
    return 0, b.stored('store') - held + b.size('2.caidx'), b.is_target(b.path('out'))


def ostree(b, making, applying):
    here, there, flags = b.path('here'), b.path('there'), '--canonical-permissions --no-xattrs --timestamp=2020-01-01T00:00:00Z -s x -b b'
    b.run(f'ostree init --repo={here} --mode=archive && ostree init --repo={there} --mode=bare-user')
    old = b.run(f'ostree commit --repo={here} {flags} --tree=dir={b.v1}').split()[-1]
    new = b.run(f'ostree commit --repo={here} {flags} --tree=dir={b.v2}').split()[-1]
    b.run(f'ostree pull-local --repo={there} {here} {old}')
    b.run(f'ostree static-delta generate --repo={here} --from={old} --to={new} --min-fallback-size=0 --inline --filename={b.path("delta")}', making)
    b.run(f'ostree static-delta apply-offline --repo={there} {b.path("delta")}', applying)
    b.run(f'ostree checkout -U --repo={there} {new} {b.path("out")}', applying)
    return 0, b.size('delta'), b.is_target(b.path('out'))


def borg(b, making, applying):
    store = b.path('borg')
    b.run(f'borg init -e none {store}')
    b.run(f'borg create -C zstd,3 {store}::old .', cwd=b.v1)
    held = b.stored('borg')
    b.run(f'borg create -C zstd,3 {store}::new .', making, cwd=b.v2)
    added = b.stored('borg') - held
    b.run(f'borg extract {store}::new', applying, cwd=made(b.path('out')))
    return 0, added, b.is_target(b.path('out'))


def nix(b, making, applying):
    nix_config = 'NIX_CONFIG=$\'experimental-features = nix-command\\nsandbox = false\\nbuild-users-group =\\nsubstituters =\''
    here, there, served = f'{nix_config} NIX_REMOTE={b.path("here")}', f'{nix_config} NIX_REMOTE={b.path("there")}', f'file://{b.path("served")}?compression=zstd'
    for side in (b.v1, b.v2):
        name = b.run(f'{here} nix-store --add {side}').split()[-1]
        held = b.stored('served')
        cost = making if side == b.v2 else None
        b.run(f'{here} nix copy --no-check-sigs --to "{served}" {name}', cost)
    b.run(f'{there} nix copy --no-check-sigs --from "{served}" {name}', applying)
    return 0, b.stored('served') - held, b.is_target(b.path('there') + name)


def bsdiff(b, making, applying):
    if os.path.getsize(b.t1) > BSDIFF_LIMIT:
        raise Failed('too large for it')
    return of_tars('bsdiff {old} {new} {delta}', 'bspatch {old} {out} {delta}')(b, making, applying)


# name: (how its version is asked for, its flags as people read them, what runs it)
TOOLS = {
    'whole': ('zstd --version', 'tar | zstd -3', whole),
    'rsync': ('rsync --version', '-a -c --no-whole-file -z --zc=zstd', rsync),
    'zstd': ('zstd --version', '-19 --long=31 --patch-from, tars',
             of_tars('zstd -q -f -19 --long=31 --patch-from={old} {new} -o {delta}', 'zstd -q -f -d --long=31 --memory=2048MB --patch-from={old} {delta} -o {out}')),
    'xdelta3': ('xdelta3 -V', '-9 -S lzma, window of the whole tar',
                of_tars('xdelta3 -e -f -9 -S lzma -B {window} -s {old} {new} {delta}', 'xdelta3 -d -f -B {window} -s {old} {delta} {out}')),
    'bsdiff': ('dpkg-query -W bsdiff', 'tars', bsdiff),
    'hdiffpatch': ('{venv}/detools --version', 'detools, LZMA, tars',
                   of_tars('{venv}/detools create_patch -a hdiffpatch -t hdiffpatch -c lzma {old} {new} {delta}', '{venv}/detools apply_patch {old} {delta} {out}')),
    'casync': ('dpkg-query -W casync | sed s,-,.,', '--with=unix, times alike: new chunks and index', casync),
    'ostree': ('ostree --version', 'static-delta generate --inline', ostree),
    'borg': ('borg --version', 'create -C zstd,3: bytes added', borg),
    'nix': ('nix --version', 'copy to a file cache, zstd: bytes added (the whole archive)', nix),
}


def digest_of(pair_dir):
    """Names both trees by every path, link and byte in them."""
    digest = hashlib.sha256()
    for at, dirs, files in os.walk(pair_dir):
        dirs.sort()
        for name in sorted(files):
            path = os.path.join(at, name)
            digest.update(f'{os.path.relpath(path, pair_dir)}\0{os.lstat(path).st_size}\0'.encode())
            if os.path.islink(path):
                digest.update(os.readlink(path).encode())
                continue
            # In pieces: what this process holds would count as the memory of the tools it starts.
            with open(path, 'rb') as content:
                while piece := content.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()


def version_of(ask, root):
    try:
        said = subprocess.run(['bash', '-c', ask.format(venv=os.path.join(root, 'venv', 'bin'))], capture_output=True, text=True)
    except OSError:
        return None
    words = re.findall(r'\d+\.\d[\w.+-]*', said.stdout + said.stderr)
    return words[0] if said.returncode == 0 and words else None


def measured(root, pair, tool):
    bench, making, applying = Bench(root, pair), Cost(), Cost()
    try:
        up, down, same = tool(bench, making, applying)
    except Failed as why:
        return dict(failed=str(why))
    finally:
        bench.close()
    return dict(up=up, down=down, same=same, cpu_make=round(making.cpu, 3), cpu_apply=round(applying.cpu, 3),
                wall_make=round(making.wall, 3), wall_apply=round(applying.wall, 3), peak_mib=round(max(making.peak, applying.peak)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--cached', action='store_true', help='run nothing')
    parser.add_argument('--tools', default=','.join(TOOLS))
    parser.add_argument('pairs', nargs='*')
    asked = parser.parse_args()
    root = os.environ['DF_BENCH_DIR']
    there = sorted(p for p in os.listdir(os.path.join(root, 'pairs')) if os.path.isdir(os.path.join(root, 'pairs', p, 'v2')))
    kept = json.load(open(RESULTS)) if os.path.exists(RESULTS) else {}
    versions = {name: version_of(TOOLS[name][0], root) for name in asked.tools.split(',')}
    for name in [name for name, version in versions.items() if version is None]:
        print(f'{name} is not here and left out', file=sys.stderr)
    pairs = asked.pairs or there
    for pair in sorted(pairs, key=lambda p: os.stat(os.path.join(root, 'pairs', p)).st_mtime):
        at = os.path.join(root, 'pairs', pair)
        digest = digest_of(at)
        row = kept.get(pair)
        if row is None or row['digest'] != digest:
            row = kept[pair] = dict(digest=digest, tools={})
        for name, version in versions.items():
            flags, run = TOOLS[name][1:]
            have = row['tools'].get(name)
            if version is None or asked.cached or have and (have['version'], have['flags']) == (version, flags):
                continue
            row['tools'][name] = dict(version=version, flags=flags, **measured(root, pair, run))
            print(pair, name, json.dumps(row['tools'][name]), file=sys.stderr, flush=True)
            with open(RESULTS + '.new', 'w') as out:
                json.dump(kept, out, indent=1, sort_keys=True)
            os.rename(RESULTS + '.new', RESULTS)


if __name__ == '__main__':
    main()
