"""A server of one's own in SimPy, whose iterations take what meshwise says.

The queue, the arrivals and the rules are SimPy's and yours: here requests come at a rate, decode together,
and a prompt shares an iteration with them. `meshwise serve` has the same rules built in, and is held against
it. Needs `pip install simpy`.
"""

from collections import deque

import numpy as np
import simpy

import meshwise as mw
from meshwise.serving import IterationCost

MODEL, CLUSTER, TP = "llama-3.1-8b", "hgx-h100", 2
PROMPT, ANSWER, RATE, REQUESTS = 1024, 256, 12.0, 600
BUDGET = 8192  # tokens of an iteration

seconds = IterationCost(MODEL, CLUSTER, stack="vllm", max_context=PROMPT + ANSWER, tp=TP)
env = simpy.Environment()
arrived = simpy.Store(env)
tpot = []


def clients():
    gaps = np.random.default_rng(0).exponential(1.0 / RATE, REQUESTS)
    for gap in gaps:
        yield env.timeout(gap)
        yield arrived.put(0)


def server():
    waiting, running, done = deque(), [], 0  # running: [tokens made, when the first was]
    while done < REQUESTS:
        if not running and not waiting:
            waiting.append((yield arrived.get()))
        while arrived.items:
            waiting.append((yield arrived.get()))
        room = (BUDGET - len(running)) // PROMPT
        prompts = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        held = PROMPT + sum(r[0] for r in running) / max(len(running), 1)
        yield env.timeout(seconds(len(running), held, [(PROMPT, 0)] * len(prompts)))
        for request in running:
            request[0] += 1
        for request in [r for r in running if r[0] == ANSWER]:
            running.remove(request)
            tpot.append((env.now - request[1]) / (ANSWER - 1))
            done += 1
        running += [[1, env.now] for _ in prompts]


env.process(clients())
env.run(env.process(server()))

load = mw.Serving(isl=PROMPT, osl=ANSWER, concurrency=256, length_spread=0.0)
built_in = mw.serve(MODEL, CLUSTER, load, stack="vllm", request_rate=RATE, requests=REQUESTS, tp=TP)
print(f"TPOT in SimPy          {np.mean(tpot) * 1e3:.2f} ms")
print(f"TPOT of meshwise serve {built_in.tpot_s * 1e3:.2f} ms")
