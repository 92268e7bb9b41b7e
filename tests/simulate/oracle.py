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

    def prompts_s(self, sequences, context, chunks):
        seconds = self.prompt + sum(n * self.token for n, _ in chunks)
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
    now, before, step = 0.0, 0.0, 0

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
        while waiting and left > 0 and len(chunks) < r.together:
            s = waiting[0]
            whole = s.prompt + s.made
            promised = sum(q.answer - q.made for q in running) + s.answer - s.made
            needs = used() + whole + (r.block - 1) / 2 + r.reserved * promised + len(decoding) + 1
            if running and (len(running) >= r.most_sequences or needs > r.capacity):
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
