#!/usr/bin/env python3
"""What does it cost to keep a tree in a bucket, and to get it back, beside restic, rclone and nix?

    DF_PROGRAMS=target/dist/programs S3_SERVER=target/release/examples/s3-server benches/cache.py [--runs N] [--only NAME,...] [TREE...]

Trees: `small`, 20,000 files of 2 to 8 KiB of text-like bytes; `large`, 1 GB in 64 files that hardly compress; both made of a seed. `versions`: ten versions of published programs (see
VERSIONS; kept below DF_BENCH_DIR where that is set), put one after the other: what each adds, beside restic and borg.

The bucket is the tests' own S3 server on this machine (release build), a fresh one for each run, on the same disk for all: it counts the requests and the bytes. By the clock, best and middle of the runs, tools
taking turns; CPU seconds are the client's, `busy` is the share of all cores' time, the server's too, that was not idle. df's tree lies in its cache before the clock starts, as nix's lies in its store; restic and rclone read a directory; nix, as Debian has it, knows no S3 and writes into a directory, as df does in a row of its own. What is got is compared with what was put.
Writes benches/results/cache.json and the tables of docs/cache.md; without trees to measure (`--tables`) only these.
"""
import argparse, filecmp, json, os, random, re, resource, shutil, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, 'results', 'cache.json')
DOCS = os.path.join(HERE, '..', 'docs', 'cache.md')
PROGRAMS = os.path.abspath(os.environ.get('DF_PROGRAMS', 'target/dist/programs'))
SERVER = os.path.abspath(os.environ.get('S3_SERVER', 'target/release/examples/s3-server'))
TOOLS = ['df', 'restic', 'rclone', 'df-directory', 'nix']
# Those that write into a directory, without any server, and the names of their rows.
INTO_DIRECTORY = {'df-directory': 'df, a directory', 'nix': 'nix, a directory'}
# Wheels of one platform: programs and libraries as they are published, of successive versions.
VERSIONS = {'orjson': [f'3.10.{n}' for n in range(3, 13)]}
WHEEL = ['--no-deps', '--only-binary', ':all:', '--platform', 'manylinux2014_x86_64', '--platform', 'manylinux_2_17_x86_64', '--python-version', '3.11']


def run(words, env=None, cwd=None, stdin=None):
    # The bucket is on this machine and speaks plain http; rclone does not start with a bundle of foreign authorities.
    env = {name: value for name, value in {**os.environ, **(env or {})}.items() if name != 'AWS_CA_BUNDLE'}
    done = subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True, stdin=stdin)
    if done.returncode:
        sys.exit(f'{words}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}')
    return done.stdout


class Bucket:
    """A fresh S3 server; its counts are known when it has ended."""
    def __init__(self, root):
        os.makedirs(root, exist_ok=True)
        self.root = root
        self.process = subprocess.Popen([SERVER, '--root', root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()
        self.env = {}
        while 'BUCKET' not in self.env:
            name, value = self.process.stdout.readline().strip().split('=', 1)
            self.env[name] = value
        self.name = self.env.pop('BUCKET')

    def end(self):
        counts, _ = self.process.communicate('')
        numbers = {name: int(value) for name, value in re.findall(r'(\w+): (\d+)', counts)}
        return {'requests': sum(n for name, n in numbers.items() if not name.startswith('bytes')), 'up': numbers['bytes_up'], 'down': numbers['bytes_down']}


def text_like(chance, n):
    words = [bytes(chance.choices(b'abcdefghijklmnopqrstuvwxyz', k=chance.randint(2, 11))) for _ in range(400)]
    return b' '.join(chance.choices(words, k=n // 3 + 1))[:n]


def make_tree(kind, at):
    chance = random.Random(7)
    if kind == 'small':
        for n in range(20_000):
            path = f'{at}/{n % 200:03}/{n}.txt'
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'wb') as file:
                file.write(text_like(chance, chance.randint(2048, 8192)) if n % 4 else chance.randbytes(2048))
    else:
        os.makedirs(at)
        for n in range(64):
            with open(f'{at}/{n}.bin', 'wb') as file:
                file.write(chance.randbytes(15_000_000) + text_like(chance, 600_000))


def same(a, b):
    left = {os.path.relpath(os.path.join(d, f), a) for d, _, files in os.walk(a) for f in files}
    right = {os.path.relpath(os.path.join(d, f), b) for d, _, files in os.walk(b) for f in files}
    return left == right and not filecmp.cmpfiles(a, b, left, shallow=False)[1:] != ([], [])


class Df:
    def __init__(self, at, tree):
        self.at, self.df = at, f'{PROGRAMS}/df'
        self.repo = f'{at}/repo'
        self.env = {'XDG_CACHE_HOME': f'{at}/cache', 'DF_NO_BACKGROUND': '1'}
        os.makedirs(self.repo)
        run(['git', 'init', '-q', '.'], cwd=self.repo)
        self.build(tree)

    def build(self, tree, version='1'):
        with open(f'{self.repo}/df.yaml', 'w') as file:
            file.write(f'app: bench\nx-version: "{version}"\nbuild: {{ command: "cp -r {tree} out", output: out, sandbox: off }}\n')
        run(['git', 'add', '.'], cwd=self.repo)
        run(['git', '-c', 'user.name=b', '-c', 'user.email=b@localhost', 'commit', '-qm', version], cwd=self.repo)
        run([self.df, 'build'], self.env, self.repo)

    def prepare(self, bucket):
        at = f'{self.at}/tiny'
        if not os.path.isdir(at):
            os.makedirs(at)
            with open(f'{at}/one', 'w') as file:
                file.write('one file')
        tiny = type(self)(tempfile.mkdtemp(dir=self.at), at)
        run(*tiny.put(bucket))

    def put(self, bucket):
        return [self.df, 'cache', 'persist', '--s3-bucket', bucket.name], {**self.env, **bucket.env}, self.repo

    def get(self, bucket, to):
        # Another machine: a cache of its own.
        return [self.df, 'cache', 'get', '--address', f's3://{bucket.name}', '--output', to], {**self.env, **bucket.env, 'XDG_CACHE_HOME': to + '.cache'}, self.repo


class DfDirectory(Df):
    """The same cache in a directory: what nix is measured with."""
    def put(self, bucket):
        return [self.df, 'cache', 'persist', '--address', f'file:{bucket.root}/df'], self.env, self.repo

    def get(self, bucket, to):
        return [self.df, 'cache', 'get', '--address', f'file:{bucket.root}/df', '--output', to], {**self.env, 'XDG_CACHE_HOME': to + '.cache'}, self.repo


class Restic:
    def __init__(self, at, tree):
        self.at, self.tree = at, tree

    def env(self, bucket):
        return {**bucket.env, 'RESTIC_REPOSITORY': f's3:{bucket.endpoint}/{bucket.name}/restic', 'RESTIC_PASSWORD': 'bench', 'RESTIC_CACHE_DIR': f'{self.at}/cache-{id(bucket)}'}

    def prepare(self, bucket):
        run(['restic', 'init', '-q'], self.env(bucket))

    def put(self, bucket):
        return ['restic', 'backup', '-q', '.'], self.env(bucket), self.tree

    def get(self, bucket, to):
        return ['restic', 'restore', '-q', 'latest', '--target', to], {**self.env(bucket), 'RESTIC_CACHE_DIR': to + '.cache'}, None


class Rclone:
    def __init__(self, at, tree):
        self.tree = tree

    def env(self, bucket):
        return {'RCLONE_CONFIG_B_TYPE': 's3', 'RCLONE_CONFIG_B_PROVIDER': 'Other', 'RCLONE_CONFIG_B_ENDPOINT': bucket.endpoint, 'RCLONE_CONFIG_B_FORCE_PATH_STYLE': 'true',
                'RCLONE_CONFIG_B_ACCESS_KEY_ID': bucket.env['AWS_ACCESS_KEY_ID'], 'RCLONE_CONFIG_B_SECRET_ACCESS_KEY': bucket.env['AWS_SECRET_ACCESS_KEY'], 'RCLONE_CONFIG': '/dev/null'}

    def put(self, bucket):
        return ['rclone', 'copy', '--transfers', '32', '--checkers', '32', '--s3-no-check-bucket', self.tree, f'b:{bucket.name}/t'], self.env(bucket), None

    def get(self, bucket, to):
        return ['rclone', 'copy', '--transfers', '32', '--checkers', '32', f'b:{bucket.name}/t', to], self.env(bucket), None


class Nix:
    def __init__(self, at, tree):
        self.store = f'{at}/nix'
        self.common = ['nix', '--extra-experimental-features', 'nix-command']
        self.path = run([*self.common, 'store', 'add-path', '--store', self.store, '--name', 'tree', tree]).strip()

    # Debian's nix cannot speak to S3: it writes the same files into a directory, without any server, and its requests are not counted.
    def put(self, bucket):
        return [*self.common, 'copy', '--no-check-sigs', '--from', self.store, '--to', f'file://{bucket.root}/nix?compression=zstd', self.path], {}, None

    def get(self, bucket, to):
        return [*self.common, 'copy', '--no-check-sigs', '--from', f'file://{bucket.root}/nix', '--to', to, self.path], {}, None

    def got(self, to):
        return to + self.path


MAKE = {'df': Df, 'df-directory': DfDirectory, 'restic': Restic, 'rclone': Rclone, 'nix': Nix}


def timed(words, env, cwd):
    """Runs a client; returns seconds, its CPU seconds, and what share of all cores' time was not idle meanwhile, in whichever process."""
    before, idle, began = resource.getrusage(resource.RUSAGE_CHILDREN), idle_s(), time.monotonic()
    run(words, env, cwd)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {'s': took, 'cpu_s': after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 'busy': 1 - (idle_s() - idle) / took / os.cpu_count()}


def idle_s():
    """Seconds that all cores together have been idle, or waited for a disk."""
    with open('/proc/stat') as file:
        ticks = file.readline().split()
    return (int(ticks[4]) + int(ticks[5])) / os.sysconf('SC_CLK_TCK')


def once(tool, made, tree, at):
    """Puts into a fresh bucket and gets it back; returns what both cost."""
    rows = {}
    root, to = f'{at}/bucket', f'{at}/got'
    # A bucket in use: restic's repository is initialised, df's cache holds one release of one file.
    if hasattr(made, 'prepare'):
        bucket = Bucket(root)
        made.prepare(bucket)
        bucket.end()
    bucket = Bucket(root)
    rows['put'] = {**timed(*made.put(bucket)), **bucket.end()}
    bucket = Bucket(root)
    rows['get'] = {**timed(*made.get(bucket, to)), **bucket.end()}
    got = made.got(to) if hasattr(made, 'got') else to
    if not same(tree, got):
        sys.exit(f'{tool}: what was got is not what was put')
    print(f'  {tool}: ' + '; '.join(f'{what} {row["s"]:.2f} s' for what, row in rows.items()), flush=True)
    for path in [root, to, to + '.cache']:
        run(['chmod', '-R', 'u+w', path]) if os.path.exists(path) else None
        shutil.rmtree(path, ignore_errors=True)
    return rows


def compare(kind, tools, n_runs, at):
    tree = f'{at}/{kind}'
    make_tree(kind, tree)
    made = {}
    for tool in tools:
        os.makedirs(f'{at}/{kind}-{tool}')
        made[tool] = MAKE[tool](f'{at}/{kind}-{tool}', tree)
    runs = {tool: [] for tool in tools}
    for n in range(n_runs):
        for tool in tools if n % 2 == 0 else reversed(tools):
            runs[tool].append(once(tool, made[tool], tree, f'{at}/{kind}-{tool}'))
    table = {}
    for tool in tools:
        table[tool] = {}
        for what in ['put', 'get']:
            rows = [row[what] for row in runs[tool]]
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            table[tool][what] = {**middle, 'best_s': min(row['s'] for row in rows)}
            print(f'{kind:<8} {tool:<8} {what}  ' + '  '.join(f'{key} {value:,.2f}' if isinstance(value, float) else f'{key} {value:,}' for key, value in table[tool][what].items()), flush=True)
    return table


def size_of(path):
    return sum(os.lstat(os.path.join(d, f)).st_size for d, _, files in os.walk(path) for f in files)


def versions(name, at):
    """Puts successive versions one after the other; returns what each adds to what is kept, for each tool."""
    trees, kept = [], f'{os.environ.get("DF_BENCH_DIR", at)}/versions'
    for version in VERSIONS[name]:
        tree = f'{kept}/{name}-{version}'
        if not os.path.isdir(tree):
            run([sys.executable, '-m', 'pip', 'download', '-q', '--disable-pip-version-check', '-d', f'{tree}.wheel', *WHEEL, f'{name}=={version}'])
            wheel = next(entry.path for entry in os.scandir(f'{tree}.wheel'))
            run([sys.executable, '-m', 'zipfile', '-e', wheel, tree])
        trees.append(tree)
    restic = {'RESTIC_REPOSITORY': f'{at}/restic-{name}', 'RESTIC_PASSWORD': 'bench', 'RESTIC_CACHE_DIR': f'{at}/restic-cache'}
    borg = {'BORG_REPO': f'{at}/borg-{name}', 'BORG_BASE_DIR': f'{at}/borg-base'}
    run(['restic', 'init', '-q'], restic)
    run(['borg', 'init', '-e', 'none'], borg)
    added, before, made = {'df': [], 'restic': [], 'borg': []}, {'df': 0, 'restic': 0, 'borg': 0}, None
    root = f'{at}/versions-bucket-{name}'
    for n, tree in enumerate(trees):
        bucket = Bucket(root)
        os.makedirs(f'{at}/versions-df-{name}', exist_ok=True)
        if made is None:
            made = Df(f'{at}/versions-df-{name}', tree)
        else:
            made.build(tree, str(n))
        run(*made.put(bucket))
        bucket.end()
        run(['restic', 'backup', '-q', '.'], restic, tree)
        run(['borg', 'create', '--compression', 'zstd,3', f'::v{n}', '.'], borg, tree)
        for tool, path in [('df', root), ('restic', restic['RESTIC_REPOSITORY']), ('borg', borg['BORG_REPO'])]:
            now = size_of(path)
            added[tool].append(now - before[tool])
            before[tool] = now
    for tool, row in added.items():
        print(f'{name:<8} {tool:<8} first {row[0]:,}  the other {len(row) - 1} {sum(row[1:]):,}', flush=True)
    return added


def write_tables(results):
    """Puts what was measured into docs/cache.md, between `<!-- NAME -->` and `<!-- end -->`."""
    with open(DOCS) as file:
        page = file.read()
    rows = ['| tree | tool | put, s | CPU s | cores busy | requests | MB up | get, s | CPU s | cores busy | requests | MB down |', '|---|---|' + '---:|' * 10]
    for kind in filter(results.__contains__, ['small', 'large']):
        for tool in filter(results[kind].__contains__, TOOLS):
            cells = []
            for what, way in [('put', 'up'), ('get', 'down')]:
                row = results[kind][tool][what]
                counted = (f'{row["requests"]:,.0f}', f'{row[way] / 1e6:,.1f}') if tool not in INTO_DIRECTORY else ('', '')
                busy = f'{row["busy"]:.0%}' if 'busy' in row else ''
                cells += [f'{row["s"]:.2f}', f'{row["cpu_s"]:.2f}', busy, *counted]
            rows.append(f'| {kind} | {INTO_DIRECTORY.get(tool, tool)} | ' + ' | '.join(cells) + ' |')
    page = between(page, 'put and get', rows)
    rows = ['| program | tool | the first, bytes | the other nine add | of what df adds |', '|---|---|---:|---:|---:|']
    for name, added in results.get('versions', {}).items():
        for tool, row in added.items():
            rows.append(f'| {name} | {tool} | {row[0]:,} | {sum(row[1:]):,} | {sum(row[1:]) / sum(added["df"][1:]):.1f} |')
    with open(DOCS, 'w') as file:
        file.write(between(page, 'versions', rows))


def between(page, name, rows):
    mark = f'<!-- {name} -->\n'
    start = page.index(mark) + len(mark)
    return page[:start] + '\n'.join(rows) + '\n' + page[page.index('<!-- end -->', start):]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--only', default=','.join(TOOLS))
    parser.add_argument('--tables', action='store_true')
    parser.add_argument('trees', nargs='*', default=['small', 'large', 'versions'])
    asked = parser.parse_args()
    results = json.load(open(RESULTS)) if os.path.exists(RESULTS) else {}
    if asked.tables:
        return write_tables(results)
    at = tempfile.mkdtemp(prefix='df-cache-bench-')
    try:
        for kind in asked.trees:
            if kind == 'versions':
                results['versions'] = {name: versions(name, at) for name in VERSIONS}
            else:
                results.setdefault(kind, {}).update(compare(kind, asked.only.split(','), asked.runs, at))
    finally:
        subprocess.run(['chmod', '-R', 'u+w', at])
        shutil.rmtree(at, ignore_errors=True)
    with open(RESULTS, 'w') as file:
        json.dump(results, file, indent=1, sort_keys=True)
        file.write('\n')
    write_tables(results)


if __name__ == '__main__':
    main()
