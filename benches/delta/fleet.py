#!/usr/bin/env python3
"""How long until four nodes hold a new version, beside rsync to the same four at once?

    DF_BENCH_DIR=/abs/dir DF_PROGRAMS=target/release benches/delta/fleet.py [--runs N] [--rates 10,100,1000] [--no-op] [PAIR...]

Needs root, iproute2 and openssh-server. Makes five network namespaces: an operator and four nodes, each with an sshd of its own on a switch; the operator's
cable to the switch is what is slow: 10 and 100 Mbit/s (tbf, both ways) with 20 ms round trip (a TAP link, see link.py), 1000 Mbit/s without delay.
All share this machine's cores and disk. Connections are made before the clock starts (a ControlMaster for each node, used by both), so connecting is excluded. Between two
runs every node is made anew with the first version. `prepared`: the delta lies in the operator's cache, as after `df build`; `cold`: df makes what it chooses while it copies;
`whole`: with `--codec whole`, nothing made before, so that it shows whether the choice was ever slower than no delta at all.

--no-op: a tree of 47,000 files that a node has; what travels then by the counters of the operator's device, and the time.
Writes benches/results/fleet.json.
"""
import argparse, json, os, random, re, shutil, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS = os.path.join(HERE, '..', 'results', 'fleet.json')
PREFIX, NET, N_NODES = 'dfb', '10.99.0', 4
ROUND_TRIP_MS = {10: 20, 100: 20, 1000: 0}
PAIRS = ['rg-line-stripped', 'rg-rel-stripped', 'numpy', 'typescript']
N_FILES = 47_000


def sh(command, check=True, **more):
    done = subprocess.run(['bash', '-o', 'pipefail', '-c', command], capture_output=True, text=True, **more)
    if check and done.returncode:
        sys.exit(f'{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}')
    return done.stdout


def inside(who, command, **more):
    return sh(f'ip netns exec {PREFIX}-{who} {command}', **more)


class Net:
    """The namespaces, the switch and the sshds; everything it starts ends with it."""
    def __init__(self, at):
        self.at, self.sshds, self.link = at, [], None
        os.makedirs('/run/sshd', exist_ok=True)
        sh(f'ssh-keygen -q -t ed25519 -N "" -f {at}/id')
        sh(f'ip netns add {PREFIX}-sw && ip -n {PREFIX}-sw link add br0 type bridge && ip -n {PREFIX}-sw link set br0 up')
        sh(f'ip netns add {PREFIX}-op && ip -n {PREFIX}-op link set lo up')
        for n in range(1, N_NODES + 1):
            self.node(n)
        with open(f'{at}/ssh_config', 'w') as config:
            config.write(f'Host *\n User root\n IdentityFile {at}/id\n IdentitiesOnly yes\n UserKnownHostsFile {at}/known_hosts\n GlobalKnownHostsFile /dev/null\n'
                         f' StrictHostKeyChecking yes\n LogLevel ERROR\n Compression no\n ControlMaster auto\n ControlPath {at}/m-%h\n ControlPersist 600\n')
            for n in range(1, N_NODES + 1):
                config.write(f'Host n{n}\n HostName {NET}.{10 + n}\n')

    def node(self, n):
        name, at = f'{PREFIX}-n{n}', f'{self.at}/n{n}'
        os.makedirs(at)
        sh(f'ip netns add {name} && ip -n {PREFIX}-sw link add p{n} type veth peer name eth0 netns {name}')
        sh(f'ip -n {PREFIX}-sw link set p{n} master br0 up && ip -n {name} link set lo up')
        sh(f'ip -n {name} addr add {NET}.{10 + n}/24 dev eth0 && ip -n {name} link set eth0 up')
        sh(f'ssh-keygen -q -t ed25519 -N "" -f {at}/host')
        key = ' '.join(open(f'{at}/host.pub').read().split()[:2])
        with open(f'{self.at}/known_hosts', 'a') as known:
            known.write(f'{NET}.{10 + n} {key}\n')
        with open(f'{at}/sshd_config', 'w') as config:
            config.write(f'HostKey {at}/host\nPidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\n'
                         f'AuthorizedKeysFile {self.at}/id.pub\nMaxSessions 64\nUseDNS no\n'
                         # Else the start of every session is that of whatever this machine's own shell loads.
                         f'SetEnv HOME={at}\n')
        self.sshds.append(subprocess.Popen(['ip', 'netns', 'exec', name, '/usr/sbin/sshd', '-D', '-f', f'{at}/sshd_config']))

    def cable(self, rate_mbit, round_trip_ms):
        """Lays the operator's cable anew, and opens a master connection to each node over it."""
        self.unplug()
        if round_trip_ms:
            self.link = subprocess.Popen([os.path.join(HERE, 'link.py'), f'{PREFIX}-op', 'eth0', f'{PREFIX}-sw', 'op', str(round_trip_ms / 2)], stdout=subprocess.PIPE)
            self.link.stdout.readline()
        else:
            sh(f'ip -n {PREFIX}-sw link add op type veth peer name eth0 netns {PREFIX}-op')
        sh(f'ip -n {PREFIX}-sw link set op master br0 up && ip -n {PREFIX}-op addr add {NET}.1/24 dev eth0 && ip -n {PREFIX}-op link set eth0 up')
        for who, dev in (('op', 'eth0'), ('sw', 'op')):
            if rate_mbit:
                burst = max(16, rate_mbit)  # KiB: a millisecond at 1000 Mbit/s, and never less than ten frames.
                sh(f'tc -n {PREFIX}-{who} qdisc replace dev {dev} root tbf rate {rate_mbit}mbit burst {burst}kb latency 100ms')
        for n in range(1, N_NODES + 1):
            deadline = time.monotonic() + 20
            while subprocess.run(self.ssh(n) + ['true'], stderr=subprocess.DEVNULL).returncode:
                if time.monotonic() > deadline:
                    sys.exit(f'node {n} does not answer')
                time.sleep(0.1)

    def ssh(self, n):
        return ['ip', 'netns', 'exec', f'{PREFIX}-op', 'ssh', '-F', f'{self.at}/ssh_config', f'n{n}']

    def unplug(self):
        for n in range(1, N_NODES + 1):
            subprocess.run(self.ssh(n)[:-1] + ['-O', 'exit', f'n{n}'], stderr=subprocess.DEVNULL)
        if self.link:
            self.link.kill()
            self.link.wait()
            self.link = None
        sh(f'ip -n {PREFIX}-sw link del op', check=False)

    def counted(self):
        """Bytes that the operator's device has sent and received, frames and all."""
        stats = json.loads(inside('op', 'ip -j -s link show dev eth0'))[0]['stats64']
        return stats['tx']['bytes'], stats['rx']['bytes']

    def close(self):
        self.unplug()
        for sshd in self.sshds:
            sshd.kill()
            sshd.wait()
        for name in ['op', 'sw'] + [f'n{n}' for n in range(1, N_NODES + 1)]:
            sh(f'ip netns del {PREFIX}-{name}', check=False)


class Operator:
    """df in the operator's namespace, with a repository whose two commits build the trees of a pair."""
    def __init__(self, net, at, programs, sides):
        self.net, self.at, self.programs, self.sides, self.ahead = net, at, programs, sides, False
        os.makedirs(f'{at}/repo')
        self.git('init -q -b main')
        self.commits = []
        for name, tree in sides.items():
            with open(f'{at}/repo/df.yaml', 'w') as config:
                config.write(f'app: pair\nbuild: {{ command: "mkdir out && cp -a {tree}/. out/", output: out, sandbox: off }}\n')
            self.git('add -A')
            self.git(f'-c user.name=b -c user.email=b@b.invalid commit -q -m {name}')
            self.commits.append(self.git('rev-parse HEAD').strip())

    def git(self, words):
        return sh(f'git -C {self.at}/repo {words}')

    def df(self, words, check=True):
        env = dict(os.environ, XDG_CACHE_HOME=f'{self.at}/cache', XDG_RUNTIME_DIR=f'{self.at}/run', DF_SSH_CONFIG=f'{self.net.at}/ssh_config', NO_COLOR='1', DF_NO_BACKGROUND='' if self.ahead else '1')
        os.makedirs(f'{self.at}/run', mode=0o700, exist_ok=True)
        said = sh(f'ip netns exec {PREFIX}-op {self.programs}/df -C {self.at}/repo --state {self.at}/state --json {words}', check, env=env)
        return [json.loads(line) for line in said.splitlines()]

    def nodes(self, numbers):
        """New nodes that hold the first version."""
        for n in range(1, N_NODES + 1):
            sh(f'chmod -R u+w {self.at}/n{n} 2>/dev/null; rm -rf {self.at}/n{n}', check=False)
        shutil.rmtree(f'{self.at}/state', ignore_errors=True)
        for n in numbers:
            self.df(f'add ssh://root@n{n}{self.at}/n{n} --name n{n}')
        self.df(f'build --commit-hash {self.commits[0]}')
        self.df(f'cp --version {self.commits[0]}')

    def forget_deltas(self):
        # `d/` of a cache holds what is derived: it may vanish at any time, by its definition.
        sh(f'find {self.at}/cache -path "*/d/*" -type f -delete', check=False)

    def same(self, n, image):
        store = sh(f'find {self.at}/n{n} -maxdepth 3 -type d -name {image}').split()
        return bool(store) and subprocess.run(['diff', '-rq', '--no-dereference', list(self.sides.values())[1], store[0]], stdout=subprocess.DEVNULL).returncode == 0


def run_df(net, operator, rate, way):
    net.cable(0, 0)
    operator.ahead = way == 'prepared'
    operator.nodes(range(1, N_NODES + 1))
    operator.forget_deltas()
    operator.df(f'build --commit-hash {operator.commits[1]}')
    settle(operator)
    net.cable(rate, ROUND_TRIP_MS[rate])
    before, began = net.counted(), time.monotonic()
    events = operator.df(f"cp --version {operator.commits[1]}{' --codec whole' if way == 'whole' else ''}")
    took, after = time.monotonic() - began, net.counted()
    copied = [event for event in events if event['type'] == 'copied']
    assert len(copied) == N_NODES and all(operator.same(n, copied[0]['image']) for n in range(1, N_NODES + 1)), 'every node holds the second version'
    return took, sum(after) - sum(before), ' '.join(filter(None, (copied[0]['codec'], copied[0].get('level'))))


def settle(operator):
    """Waits until the child of `df build` that makes deltas ahead has ended."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if not any(operator.at.encode() in words and b'__prepare' in words for words in command_lines()):
            return
    sys.exit('the deltas made ahead take over ten minutes')


def command_lines():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as words:
                yield words.read()
        except OSError:
            pass  # It has ended meanwhile.


def run_rsync(net, operator, rate):
    old, new = operator.sides.values()
    for n in range(1, N_NODES + 1):
        sh(f'rm -rf {operator.at}/r{n} && cp -a {old} {operator.at}/r{n}')
    net.cable(rate, ROUND_TRIP_MS[rate])
    before, began = net.counted(), time.monotonic()
    all_four = [subprocess.Popen(['ip', 'netns', 'exec', f'{PREFIX}-op', 'rsync', '-a', '-c', '-z', '--zc=zstd', '--no-whole-file', '--delete',
                                  '-e', f'ssh -F {net.at}/ssh_config', f'{new}/', f'n{n}:{operator.at}/r{n}/']) for n in range(1, N_NODES + 1)]
    ended = [one.wait() for one in all_four]
    took, after = time.monotonic() - began, net.counted()
    assert not any(ended), ended
    assert all(subprocess.run(['diff', '-rq', '--no-dereference', new, f'{operator.at}/r{n}'], stdout=subprocess.DEVNULL).returncode == 0 for n in range(1, N_NODES + 1))
    return took, sum(after) - sum(before)


def fleet(net, at, programs, root, asked, kept):
    for pair in asked.pairs or PAIRS:
        sides = {v: os.path.join(root, 'pairs', pair, v) for v in ('v1', 'v2')}
        operator = Operator(net, tempfile.mkdtemp(prefix=f'{pair}-', dir=at), programs, sides)
        for rate in asked.rates:
            row = {}
            ways = {'rsync': lambda: run_rsync(net, operator, rate)}
            for way in ('prepared', 'cold', 'whole'):
                ways[f'df {way}'] = lambda way=way: run_df(net, operator, rate, way)
            runs = {name: [] for name in ways}
            for _ in range(asked.runs):
                for name, way in ways.items():
                    runs[name].append(way())
            for name, results in runs.items():
                row[name] = dict(seconds=round(statistics.median(r[0] for r in results), 3), all=[round(r[0], 3) for r in results],
                                 wire_bytes=int(statistics.median(r[1] for r in results)), **({'codec': results[0][2]} if len(results[0]) > 2 else {}))
            kept.setdefault('fleet', {}).setdefault(pair, {})[str(rate)] = row
            print(pair, rate, json.dumps(row), flush=True)
            keep(kept)
        shutil.rmtree(operator.at, ignore_errors=True)


def no_op(net, at, programs, kept):
    tree, seeded = f'{at}/tree', random.Random(1)
    for n in range(N_FILES):
        place = f'{tree}/d{n % 211}/e{n % 7}'
        os.makedirs(place, exist_ok=True)
        with open(f'{place}/f{n}', 'wb') as file:
            file.write(seeded.randbytes(seeded.randrange(40, 400)))
    operator = Operator(net, tempfile.mkdtemp(prefix='noop-', dir=at), programs, {'v1': tree})
    net.cable(0, 0)
    operator.nodes([1])
    inside('op', f'rsync -a -e "ssh -F {net.at}/ssh_config" {tree}/ n1:{operator.at}/r1/')
    rows = {}
    def df():
        copied = [event for event in operator.df(f'cp --version {operator.commits[0]}') if event['type'] == 'copied']
        return {key: copied[0][key] for key in ('bytes_sent', 'bytes_received', 'seconds')}
    def rsync():
        said = inside('op', f'rsync -a --stats -e "ssh -F {net.at}/ssh_config" {tree}/ n1:{operator.at}/r1/')
        sent, received = (int(re.search(rf'Total bytes {way}: ([\d,]+)', said).group(1).replace(',', '')) for way in ('sent', 'received'))
        return dict(bytes_sent=sent, bytes_received=received)
    for name, once in (('df cp', df), ('rsync -a', rsync)):
        runs = []
        for _ in range(5):
            before, began = net.counted(), time.monotonic()
            told = once()
            took, after = time.monotonic() - began, net.counted()
            runs.append(dict(told, process_seconds=round(took, 4), device_bytes=sum(after) - sum(before)))
        rows[name] = sorted(runs, key=lambda run: run['process_seconds'])[len(runs) // 2]
    kept['no-op'] = dict(files=N_FILES, **rows)
    print(json.dumps(kept['no-op'], indent=1), flush=True)
    keep(kept)


def keep(kept):
    with open(RESULTS, 'w') as out:
        json.dump(kept, out, indent=1, sort_keys=True)
        out.write('\n')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--rates', type=lambda text: [int(rate) for rate in text.split(',')], default=list(ROUND_TRIP_MS))
    parser.add_argument('--no-op', action='store_true')
    parser.add_argument('pairs', nargs='*')
    asked = parser.parse_args()
    root, programs = os.environ['DF_BENCH_DIR'], os.path.abspath(os.environ.get('DF_PROGRAMS', os.path.join(HERE, '../../target/release')))
    kept = json.load(open(RESULTS)) if os.path.exists(RESULTS) else {}
    # What it made goes with it, also when it is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A short name: the path of a socket has 108 bytes.
    at = tempfile.mkdtemp(prefix='dfb')
    os.chmod(at, 0o755)
    net = Net(at)
    try:
        if asked.no_op:
            no_op(net, at, programs, kept)
        else:
            fleet(net, at, programs, root, asked, kept)
    finally:
        net.close()
        sh(f'chmod -R u+w {at}; rm -rf {at}', check=False)


if __name__ == '__main__':
    main()
