"""The same engines by brute force: one token of each sequence a step, nothing taken at once."""

from __future__ import annotations

import math


class Plain:
    """Seconds that are affine in everything, so that steps taken at once have the same sum."""

    def __init__(self, base=1e-2, sequence=1e-3, context=1e-6, prompt=5e-3, token=1e-5):
        self.base, self.sequence, self.context = base, sequence, context
        self.prompt, self.token = prompt, token

    def decode_s(self, sequences, context):
        return self.base + sequences * (self.sequence + self.context * context)

    def prompts_s(self, sequences, context, chunks, shared=None, empties=False):
        own = sum(n for n, _ in chunks) + sequences
        seconds = self.prompt + sum(n * self.token for n, _ in chunks)
        seconds += 0.0 if shared is None else (shared - own) * self.token / 2
        return seconds + (self.decode_s(sequences, context) if sequences else 0.0)


class Sequence:
    def __init__(self, number, prompt, answer):
        self.number, self.prompt, self.answer = number, prompt, answer
        self.made, self.left = 0, prompt

    @property
    def decodes(self):
        return self.left == 0


def brute(price, r, prompt, answer, arrival=None, in_flight=0):
    """(start, first, end) of every request; only whole tokens, no prefix."""
    n = len(prompt)
    due = [(0.0, i) for i in range(min(in_flight, n))] if arrival is None else []
    due = due or [(t, i) for i, t in enumerate(arrival or [])]
    sent = len(due)
    start, first, end = ([math.nan] * n for _ in range(3))
    waiting, running, unseen = [], [], []
    now, before, step, waited = 0.0, 0.0, 0, 0

    def see(until):
        nonlocal sent
        while unseen and unseen[0][0] <= until:
            _, what, number = unseen.pop(0)
            what[number] = now
            if what is end and arrival is None and sent < n:
                due.append((now, sent))
                sent += 1

    def used():
        return sum(s.prompt + s.made + (r.block - 1) / 2 for s in running)

    def has_room(s, decoding):
        promised = sum(q.answer - q.made for q in running) + s.answer - s.made
        own = s.prompt + s.made + (r.block - 1) / 2
        needs = used() + own + r.reserved * promised + len(decoding) + 1
        return not running or (len(running) < r.most_sequences and needs <= r.capacity)

    while True:
        seen = before if running and r.ahead else now
        if step % r.poll == 0 or not running:
            while due and due[0][0] <= seen:
                _, i = due.pop(0)
                waiting.append(Sequence(i, prompt[i], answer[i]))
        decoding = [s for s in running if s.decodes]
        left = r.budget - (len(decoding) if r.policy != "first" else 0)
        chunks = []
        for s in running:
            if not s.decodes and left > 0 and len(chunks) < r.together:
                chunks.append((s, min(s.left, left)))
                left -= chunks[-1][1]
        tokens = len(decoding) + sum(s.prompt + s.made for s in waiting)
        few = waited < r.wait and tokens < r.enough
        passes = few and decoding and not chunks and waiting and has_room(waiting[0], decoding)
        while waiting and left > 0 and len(chunks) < r.together and not passes:
            s = waiting[0]
            whole = s.prompt + s.made
            if not has_room(s, decoding):
                break
            s.left = whole
            if r.policy == "whole" and whole > left and (chunks or whole <= r.budget):
                break
            waiting.pop(0)
            running.append(s)
            if math.isnan(start[s.number]):
                start[s.number] = now
            chunks.append((s, min(whole, left)))
            left -= chunks[-1][1]
        beside = decoding if r.policy != "first" or not chunks else []
        if beside and len(running) > 1 and used() + len(beside) > r.capacity:
            s = running.pop()
            s.left = s.prompt + s.made
            waiting.insert(0, s)
            continue
        if not running:
            see(math.inf)
            if not due:
                return start, first, end
            now = max(now, due[0][0])
            continue
        mean = sum(s.prompt + s.made for s in beside) / len(beside) if beside else 0.0
        if chunks:
            seconds = price.prompts_s(len(beside), mean, [(c, 0) for _, c in chunks])
        else:
            seconds = price.decode_s(len(beside), mean)
        before, now, step = now, now + seconds, step + 1
        waited = waited + bool(passes) if not chunks else 0
        over = []
        for s in beside:
            s.made += 1
            if s.made == s.answer:
                over.append(s)
        for s, tokens in chunks:
            s.left -= tokens
            if s.left == 0:
                s.made += 1
                if s.made == 1:
                    unseen.append((step, first, s.number))
                if s.made == s.answer:
                    over.append(s)
        for s in over:
            running.remove(s)
        # ends in the order of their numbers, prompts' last
        for s in sorted(over, key=lambda s: s.number):
            unseen.append((step, end, s.number))
        see(step - r.ahead)


def brute_ranks(price, r, prompt, answer, ranks, arrival=None, in_flight=0):
    """:func:`brute` of several replicas that pass through their experts together: one step of all at a time."""
    n = len(prompt)
    due = [(0.0, i) for i in range(min(in_flight, n))] if arrival is None else []
    due = due or [(t, i) for i, t in enumerate(arrival or [])]
    sent, given = len(due), 0
    start, first, end = ([math.nan] * n for _ in range(3))
    waiting, running = ([[] for _ in range(ranks)] for _ in range(2))
    unseen = [[] for _ in range(ranks)]
    now, before, step = 0.0, 0.0, 0

    def see(until):
        nonlocal sent
        for q in unseen:
            while q and q[0][0] <= until:
                _, what, number = q.pop(0)
                what[number] = now
                if what is end and arrival is None and sent < n:
                    due.append((now, sent))
                    sent += 1

    def used(k):
        return sum(s.prompt + s.made + (r.block - 1) / 2 for s in running[k])

    def whose(request):
        nonlocal given
        if r.balance == "round_robin":
            given += 1
            return (given - 1) % ranks
        if r.balance == "least_requests":
            scores = [4 * len(waiting[k]) + len(running[k]) for k in range(ranks)]
            return scores.index(min(scores))
        counts = [len(waiting[k]) + len(running[k]) for k in range(ranks)]
        share = max(math.ceil((sum(counts) + 1) / ranks), max(counts))
        tokens = [sum(s.prompt + s.made for s in waiting[k] + running[k]) for k in range(ranks)]
        return min((tokens[k], k) for k in range(ranks) if counts[k] < share)[1]

    def batch(k, decoding):
        left = r.budget - (len(decoding) if r.policy != "first" else 0)
        chunks = []
        for s in running[k]:
            if not s.decodes and left > 0 and len(chunks) < r.together:
                chunks.append((s, min(s.left, left)))
                left -= chunks[-1][1]
        while waiting[k] and left > 0 and len(chunks) < r.together:
            s = waiting[k][0]
            whole = s.prompt + s.made
            promised = sum(q.answer - q.made for q in running[k]) + s.answer - s.made
            needs = used(k) + whole + (r.block - 1) / 2 + r.reserved * promised + len(decoding) + 1
            if running[k] and (len(running[k]) >= r.most_sequences or needs > r.capacity):
                break
            s.left = whole
            if r.policy == "whole" and whole > left and (chunks or whole <= r.budget):
                break
            waiting[k].pop(0)
            running[k].append(s)
            if math.isnan(start[s.number]):
                start[s.number] = now
            chunks.append((s, min(whole, left)))
            left -= chunks[-1][1]
        return chunks

    while True:
        seen = before if any(running) and r.ahead else now
        if step % r.poll == 0 or not any(running):
            while due and due[0][0] <= seen:
                _, i = due.pop(0)
                waiting[whose(i)].append(Sequence(i, prompt[i], answer[i]))
        decoding = [[s for s in running[k] if s.decodes] for k in range(ranks)]
        chunks = [batch(k, decoding[k]) for k in range(ranks)]
        beside = [decoding[k] if r.policy != "first" or not chunks[k] else [] for k in range(ranks)]
        full = [
            k
            for k in range(ranks)
            if beside[k] and len(running[k]) > 1 and used(k) + len(beside[k]) > r.capacity
        ]
        if full:
            s = running[full[0]].pop()
            s.left = s.prompt + s.made
            waiting[full[0]].insert(0, s)
            continue
        if not any(running):
            see(math.inf)
            if not due:
                return start, first, end
            now = max(now, due[0][0])
            continue
        seconds = 0.0
        if any(beside):
            most = max(len(b) for b in beside)
            held = max(sum(s.prompt + s.made for s in b) for b in beside)
            seconds = price.decode_s(most, held / most)
        tokens = sum(len(b) for b in beside) + sum(c for each in chunks for _, c in each)
        for k in range(ranks):
            if chunks[k]:
                b = beside[k]
                mean = sum(s.prompt + s.made for s in b) / len(b) if b else 0.0
                parts = [(c, 0) for _, c in chunks[k]]
                seconds = max(seconds, price.prompts_s(len(b), mean, parts, tokens / ranks))
        before, now, step = now, now + seconds, step + 1
        for k in range(ranks):
            over = []
            for s in beside[k]:
                s.made += 1
                if s.made == s.answer:
                    over.append(s)
            for s, c in chunks[k]:
                s.left -= c
                if s.left == 0:
                    s.made += 1
                    if s.made == 1:
                        unseen[k].append((step, first, s.number))
                    if s.made == s.answer:
                        over.append(s)
            for s in sorted(over, key=lambda s: s.number):
                running[k].remove(s)
                unseen[k].append((step, end, s.number))
        see(step - r.ahead)
