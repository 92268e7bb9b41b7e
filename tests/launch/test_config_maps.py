"""What containers get of ConfigMaps: variables, scripts, configurations; and the lines of a manifest's words."""

from __future__ import annotations

import pytest

from meshwise.errors import InputError
from meshwise.launch.read import NoLaunch, parse

MAP = """apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  TP: "4"
  run.sh: |
    #!/bin/bash
    exec vllm serve m \\
      --tensor-parallel-size $TP
  engine.yaml: |
    tensor-parallel-size: 4
"""
POD = """apiVersion: v1
kind: Pod
spec:
  containers:
  - name: one
    image: vllm/vllm-openai:v0.11.0
"""
USES = {
    "all of it as variables": "    args: [--model, m, -tp, $(TP)]\n"
    "    envFrom: [{configMapRef: {name: settings}}]\n",
    "a prefix": "    args: [--model, m, -tp, $(A_TP)]\n"
    "    envFrom: [{prefix: A_, configMapRef: {name: settings}}]\n",
    "a key as a variable": "    args: [--model, m, -tp, $(MANY)]\n    env:\n"
    "    - name: MANY\n      valueFrom: {configMapKeyRef: {name: settings, key: TP}}\n",
    "a script": "    command: [bash, /scripts/run.sh]\n"
    "    envFrom: [{configMapRef: {name: settings}}]\n"
    "    volumeMounts: [{name: files, mountPath: /scripts}]\n"
    "  volumes: [{name: files, configMap: {name: settings}}]\n",
    "a configuration under another name": "    args: [--model, m, --config, /etc/a.yaml]\n"
    "    volumeMounts: [{name: files, mountPath: /etc/a.yaml, subPath: a.yaml}]\n"
    "  volumes:\n  - name: files\n"
    "    configMap: {name: settings, items: [{key: engine.yaml, path: a.yaml}]}\n",
    "of several objects": "    args: [--model, m, --config, /etc/engine.yaml]\n"
    "    volumeMounts: [{name: files, mountPath: /etc}]\n"
    "  volumes:\n  - name: files\n"
    "    projected: {sources: [{configMap: {name: settings}}]}\n",
}


@pytest.mark.parametrize("name", USES)
def test_what_a_container_gets_of_a_config_map(name: str) -> None:
    assert parse(f"{MAP}---\n{POD}{USES[name]}").job.tp == 4
    assert parse(f"{POD}{USES[name]}---\n{MAP}").job.tp == 4
    assert parse(f"{POD}{USES[name]}", files={"settings.yaml": MAP}).job.tp == 4


def test_a_config_map_that_is_not_in_the_text_is_named() -> None:
    with pytest.raises(InputError, match=r"\$MANY is not set .* ConfigMap settings \(key TP\)"):
        parse(POD + USES["a key as a variable"])
    with pytest.raises(NoLaunch, match=r"/scripts/run\.sh of the ConfigMap settings"):
        parse(POD + USES["a script"])
    assert parse(POD + USES["a key as a variable"], values={"MANY": "2"}).job.tp == 2


def test_a_variable_of_the_container_wins_over_its_config_map() -> None:
    text = POD + USES["all of it as variables"] + '    env: [{name: TP, value: "8"}]\n'
    assert parse(f"{MAP}---\n{text}").job.tp == 8


LINES = {
    "a list": (POD + "    args:\n    - --model\n    - m\n    - --tensor-parallel-size=4\n", 10),
    "a list in a line": (POD + "    args: [--model, m, -tp, '4']\n", 7),
    "a script": (
        POD
        + "    command:\n    - bash\n    - -c\n    - |\n      A=1\n      vllm serve m \\\n        -tp 4\n",
        13,
    ),
    "a folded text": (
        "services:\n  a:\n    image: vllm/vllm-openai\n    command: >\n"
        "      --model m\n      -tp ${TP:-4}\n",
        6,
    ),
    "variables before it": (
        "TP=4\n\nservices:\n  a:\n    image: vllm/vllm-openai\n    command: --model m -tp ${TP}\n",
        6,
    ),
    "a task": (
        "resources: {gpu: H100:4}\ncommands:\n- echo a\n- |\n  vllm serve m \\\n    -tp $DSTACK_GPUS_NUM\n",
        6,
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_word_of_a_manifest_has_its_line(name: str) -> None:
    text, line = LINES[name]
    read = parse(text)
    assert read.job.tp == 4
    assert [f.origin.line for f in read.flags if f.kind == "layout"] == [line]


def test_an_error_of_a_manifest_has_its_line() -> None:
    with pytest.raises(InputError) as error:
        parse(POD + "    args:\n    - --model\n    - m\n    - -tp\n    - many\n")
    assert error.value.line == 10


def test_a_word_of_a_config_maps_script_has_its_file_and_line() -> None:
    read = parse(f"{POD}{USES['a script']}---\n{MAP}")
    assert [(f.origin.file, f.origin.line) for f in read.flags if f.kind == "layout"] == [
        ("/scripts/run.sh", 3)
    ]
