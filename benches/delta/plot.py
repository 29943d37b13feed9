#!/usr/bin/env python3
"""Draws what the benches saw: benches/results/*.json to docs/deltas-bytes.svg, docs/deltas-fleet.svg and the tables of docs/deltas.md.

    benches/delta/plot.py

Nothing is drawn that is not in those files; run it again after a bench. Tables stand between `<!-- NAME -->` and `<!-- end -->`.
"""
import json, math, os, re

HERE = os.path.dirname(os.path.abspath(__file__))
RESULTS, DOCS = os.path.join(HERE, '..', 'results'), os.path.join(HERE, '..', '..', 'docs')
INK, FAINT, GRID = '#333', '#777', '#e4e4e4'
STYLE = 'font-family="system-ui, sans-serif" font-size="12"'
# What is drawn of each pair: (name, colour).
SERIES = [('the image, zstd -3', '#c8c8c8'), ('rsync -z', '#e08214'), ('the best of the others', '#8073ac'), ('df, fast', '#74add1'), ('df, small', '#08519c')]
WAYS = [('rsync', '#e08214'), ('df whole', '#c8c8c8'), ('df cold', '#74add1'), ('df prepared', '#08519c')]


def load(name):
    path = os.path.join(RESULTS, name)
    return json.load(open(path)) if os.path.exists(path) else {}


def total(tool):
    return tool['up'] + tool['down'] if tool and tool.get('same') else None


def best(tools):
    """The tool that needs the fewest bytes and makes the right tree."""
    return min(((total(tool), name) for name, tool in tools.items() if total(tool)), default=(None, None))


def rows(measured, peers):
    """(pair, whole, rsync, best, its name, fast, small), the worst ratio last."""
    found = []
    for pair, row in measured.items():
        if any('failed' in row[level] for level in ('fast', 'small')):
            continue
        tools = peers.get(pair, {}).get('tools', {})
        least, name = best(tools)
        found.append((pair, total(tools.get('whole')), total(tools.get('rsync')), least, name, row['fast']['bytes'], row['small']['bytes']))
    return sorted(found, key=lambda row: -(row[2] or 1) / row[6])


def mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else float('nan')


def svg(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {STYLE}>\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + '\n'.join(parts) + '\n</svg>\n')


def text(x, y, words, anchor='start', colour=INK, size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{words}</text>'


def line(x1, y1, x2, y2, colour=GRID):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def legend(series, x, y):
    parts = []
    for name, colour in series:
        parts += [f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{colour}"/>', text(x + 9, y, name)]
        x += 30 + 6.6 * len(name)
    return parts


def human(n):
    for unit, size in (('MB', 1e6), ('kB', 1e3)):
        if n >= size:
            return f'{n / size:.0f} {unit}'
    return f'{n:.0f} B'


def draw_bytes(found):
    left, top, step, width = 170, 52, 24, 900
    low, high = 2, math.ceil(math.log10(max(row[1] or 1 for row in found)))
    at = lambda n: left + (math.log10(n) - low) / (high - low) * (width - left - 30)
    bottom = top + step * len(found)
    parts = legend(SERIES, left, 22)
    for power in range(low, high + 1):
        parts += [line(at(10 ** power), top - 14, at(10 ** power), bottom), text(at(10 ** power), bottom + 16, human(10 ** power), 'middle', FAINT)]
    for n, (pair, whole, rsync, least, _, fast, small) in enumerate(found):
        y = top + step * n + 4
        known = [(value, colour) for value, (_, colour) in zip((whole, rsync, least, fast, small), SERIES) if value]
        parts += [text(left - 12, y + 4, pair, 'end'), line(at(min(v for v, _ in known)), y, at(max(v for v, _ in known)), y, '#cfcfcf')]
        parts += [f'<circle cx="{at(value):.1f}" cy="{y}" r="5" fill="{colour}"/>' for value, colour in known]
    return svg(width, bottom + 30, parts)


def draw_fleet(fleet):
    """For each rate a group of pairs; bars as shares of rsync's time, with seconds beside them."""
    left, top, bar, width = 190, 52, 13, 900
    parts, y = legend(WAYS, left, 22), top
    most = max((row[name]['seconds'] / row['rsync']['seconds'] for rates in fleet.values() for row in rates.values() for name, _ in WAYS if name in row), default=1)
    scale = (width - left - 90) / max(1, most)
    for rate in sorted({int(rate) for rates in fleet.values() for rate in rates}):
        parts.append(text(12, y + 10, f'{rate} Mbit/s' + (', 20 ms' if rate < 1000 else ''), colour=FAINT))
        y += 18
        for pair, rates in fleet.items():
            row = rates.get(str(rate), {})
            parts.append(text(left - 12, y + bar * 2, pair, 'end'))
            for name, colour in WAYS:
                if name in row:
                    length = row[name]['seconds'] / row['rsync']['seconds'] * scale
                    parts += [f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{colour}"/>',
                              text(left + length + 6, y + bar - 3, f"{row[name]['seconds']:.2f} s", colour=FAINT, size=11)]
                    y += bar
            y += 8
        y += 8
    return svg(width, y + 8, parts)


def number(n):
    return f'{n:,}' if n is not None else ''


def bytes_table(found, measured):
    head = ['pair', 'whole, zstd -3', 'rsync -z', 'the best of the others', 'df, fast', 'df, small', 'fewer than rsync', '`df cp`, all that is said, small']
    lines = ['| ' + ' | '.join(head) + ' |', '|---|' + '---:|' * (len(head) - 1)]
    said = {level: {pair: row[level]['wire']['sent'] + row[level]['wire']['received'] for pair, row in measured.items()} for level in ('fast', 'small')}
    for pair, whole, rsync, least, name, fast, small in found:
        mark = '**' if least and small > least else ''
        lines.append(f'| {pair} | {number(whole)} | {number(rsync)} | {number(least)} {name or ""} | {number(fast)} | {mark}{number(small)}{mark} | {rsync / small:.1f} | {number(said["small"][pair])} |')
    fast, small = (mean([row[2] / row[n] for row in found if row[2]]) for n in (5, 6))
    all_fast, all_small = (mean([row[2] / said[level][row[0]] for row in found if row[2]]) for level in ('fast', 'small'))
    return lines + ['', f'Geometric mean of rsync over df, {len(found)} pairs: {fast:.1f} at level fast, {small:.1f} at level small; of all that `df cp` and the node say to each other, as rsync is '
                        f'counted: {all_fast:.1f} and {all_small:.1f}. Bold: another tool needs fewer bytes.']


def cost_table(measured, peers):
    head = ['pair', 'changed, MB', 'encode fast, MB/s', 'encode small', 'apply fast', 'apply small', 'encode, MiB', 'of the largest file', 'apply, MiB', 'rsync, CPU s', 'HDiffPatch, CPU s', 'df fast, CPU s']
    lines = ['| ' + ' | '.join(head) + ' |', '|---|' + '---:|' * (len(head) - 1)]
    for pair, row in sorted(measured.items()):
        if any('failed' in row[level] for level in ('fast', 'small')):
            continue
        tools = peers.get(pair, {}).get('tools', {})
        spent = lambda tool: f"{tool['cpu_make'] + tool['cpu_apply']:.2f}" if tool and 'cpu_make' in tool else ''
        peak = {step: max(row[level][step]['peak_mib'] for level in ('fast', 'small')) for step in ('encode', 'apply')}
        cells = [pair, f"{row['changed_bytes'] / 1e6:.1f}"] + [f"{row[level][step]['mb_s']:.1f}" for step in ('encode', 'apply') for level in ('fast', 'small')]
        cells += [str(peak['encode']), f"{peak['encode'] * 1048576 / max(row['largest_bytes'], 1):.1f}", str(peak['apply'])]
        cells += [spent(tools.get('rsync')), spent(tools.get('hdiffpatch')), f"{sum(row['fast'][step]['cpu_s'] for step in ('encode', 'apply')):.2f}"]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return lines


def peers_table(measured, peers):
    names = ['whole', 'borg', 'nix', 'casync', 'rsync', 'ostree', 'xdelta3', 'zstd', 'bsdiff', 'hdiffpatch']
    lines = ['| pair | ' + ' | '.join(names) + ' |', '|---|' + '---:|' * len(names)]
    for pair in sorted(measured):
        tools = peers.get(pair, {}).get('tools', {})
        lines.append(f'| {pair} | ' + ' | '.join(number(total(tools.get(name))) for name in names) + ' |')
    known = {name: tool for row in peers.values() for name, tool in row['tools'].items()}
    return lines + ['', '; '.join(f"{name} {known[name]['version']} ({known[name]['flags']})" for name in names if name in known) + '.']


def fleet_table(fleet):
    lines = ['| pair | link | ' + ''.join(f'{name}, s | ' for name, _ in WAYS) + 'rsync, bytes on the wire | df, bytes on the wire |', '|---|---|' + '---:|' * (len(WAYS) + 2)]
    for pair, rates in fleet.items():
        for rate, row in sorted(rates.items(), key=lambda item: int(item[0])):
            seconds = [f"{row[name]['seconds']:.2f}" if name in row else '' for name, _ in WAYS]
            lines.append(f"| {pair} | {rate} Mbit/s | {' | '.join(seconds)} | {number(row['rsync']['wire_bytes'])} | {number(row['df prepared']['wire_bytes'])} |")
    return lines


def no_op_table(no_op):
    lines = ['| nothing to do, ' + f"{no_op['files']:,} files" + ' | said, bytes | on the wire with ssh and TCP | s |', '|---|---:|---:|---:|']
    for name in ('df cp', 'rsync -a'):
        row = no_op[name]
        seconds = f"{row['seconds']:.3f} after connecting, {row['process_seconds']:.3f} in all" if 'seconds' in row else f"{row['process_seconds']:.3f} in all"
        lines.append(f"| {name} | {number(row['bytes_sent'] + row['bytes_received'])} | {number(row['device_bytes'])} | {seconds} |")
    return lines


def main():
    measured, peers, fleet = load('delta.json'), load('delta-peers.json'), load('fleet.json')
    tables, drawings = {}, {}
    if measured:
        found = rows(measured, peers)
        tables |= {'bytes': bytes_table(found, measured), 'cost': cost_table(measured, peers), 'peers': peers_table(measured, peers)}
        drawings['deltas-bytes.svg'] = draw_bytes(found)
    if 'fleet' in fleet:
        tables['fleet'] = fleet_table(fleet['fleet'])
        drawings['deltas-fleet.svg'] = draw_fleet(fleet['fleet'])
    if 'no-op' in fleet:
        tables['no-op'] = no_op_table(fleet['no-op'])
    for name, drawing in drawings.items():
        with open(os.path.join(DOCS, name), 'w') as out:
            out.write(drawing)
    path = os.path.join(DOCS, 'deltas.md')
    page = open(path).read()
    for name, lines in tables.items():
        block = f'<!-- {name} -->\n' + '\n'.join(lines) + '\n<!-- end -->'
        page, n = re.subn(rf'<!-- {name} -->.*?<!-- end -->', lambda _: block, page, flags=re.S)
        assert n == 1, f'docs/deltas.md has a place for {name}'
    with open(path, 'w') as out:
        out.write(page)


if __name__ == '__main__':
    main()
