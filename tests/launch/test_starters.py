"""What starts an engine's command: containers, wrappers, terminals, units, Dockerfiles, makefiles; and what ends a
script before it."""

from __future__ import annotations

import pytest

from meshwise.errors import InputError
from meshwise.launch.read import NoLaunch, parse

IMAGE = "vllm/vllm-openai:v0.11.0"
STARTED = [
    "exec vllm serve m -tp 4",
    f"docker run --gpus all -e TP=4 --entrypoint bash {IMAGE} -c 'vllm serve m -tp $TP'",
    f"docker run --gpus all {IMAGE} vllm serve m -tp 4",
    f"docker run --gpus all {IMAGE} python3 -m vllm.entrypoints.openai.api_server --model m -tp 4",
    f"docker run --gpus all {IMAGE} m -tp 4",
    f"docker run -it --ulimit a=1 {IMAGE} /bin/bash\nvllm serve m -tp 4",
    f"docker run --rm -it --entrypoint='' {IMAGE} vllm serve m -tp 4",
    "docker exec -i -e TP=4 box bash <<'END'\nvllm serve m -tp $TP\nEND",
    f"kubectl run one --image={IMAGE} --port=8000 -- --model m --tensor-parallel-size 4",
    f"kubectl run one --image {IMAGE} --command -- vllm serve m -tp 4",
    f"apptainer run --nv docker://{IMAGE} --model m --tensor-parallel-size 4",
    "singularity run --nv vllm-openai_v0.11.0.sif --model m --tensor-parallel-size 4",
    "TP=2\nenv -u A TP=4 bash -c 'vllm serve m -tp $TP'",
    "conda run -n one --no-capture-output vllm serve m -tp 4",
    "echo m | xargs -I{} vllm serve {} -tp 4",
    "echo m | xargs vllm serve -tp 4",
    "parallel -j 1 vllm serve {1} -tp {2} ::: m ::: 4",
    "tmux new -d -s a\ntmux send-keys -t a 'vllm serve m -tp 4' C-m",
    "screen -S a -X stuff 'vllm serve m -tp 4\\n'",
    "pm2 start 'vllm serve m -tp 4' --name one",
    '[Unit]\nDescription=a server\n[Service]\nEnvironment="TP=4" A=1\n'
    "ExecStart=-/opt/bin/vllm serve m \\\n  --tensor-parallel-size ${TP}\n",
    "cat > /etc/systemd/system/one.service <<END\n[Service]\nExecStart=/opt/bin/vllm serve m -tp 4\nEND\n"
    "systemctl enable one\nsystemctl start one",
    f"[Container]\nImage={IMAGE}\nExec=--model m --tensor-parallel-size 4\n",
    '[program:one]\nenvironment=TP="4",A="b"\ncommand=vllm serve m -tp %(ENV_TP)s\n',
    f'FROM base AS first\nCMD ["false"]\nFROM {IMAGE}\nENV A=1\nCMD ["--model", "m", \\\n  "-tp", "4"]\n',
    "ARG TP=4\nFROM base\nRUN <<END\nvllm serve other -tp 8\nEND\nENV MANY=$TP\n"
    'ENTRYPOINT ["vllm", "serve"]\nCMD ["m", "-tp", "4"]\n',
    "FROM base\nENV TP=4\nENTRYPOINT exec vllm serve m -tp $TP\n",
    "TP ?= 4\nNAME := m\nrun:\n\t@vllm serve $(NAME) \\\n\t  --tensor-parallel-size $(TP)\n",
]


@pytest.mark.parametrize("text", STARTED)
def test_the_command_is_found_in_what_starts_it(text: str) -> None:
    read = parse(text)
    assert (read.target, read.job.model, read.job.tp, read.job.gpus) == ("vllm", "m", 4, 4)


def test_a_container_gets_only_what_it_is_given() -> None:
    text = "export TP=4\ndocker run {} img bash -c 'vllm serve m -tp $TP'\n"
    with pytest.raises(InputError, match=r"\$TP is not set"):
        parse(text.format("--rm"))
    assert parse(text.format("-e TP")).job.tp == 4


def test_what_xargs_reads_is_asked_for_where_it_is_not_in_the_text() -> None:
    with pytest.raises(InputError, match=r"\$xargs"):
        parse("cat degrees.txt | xargs -I% vllm serve m -tp %")
    with pytest.raises(InputError, match="2 commands"):
        parse("printf '2\\n4\\n' | xargs -I% vllm serve m -tp %")


def test_a_makefile_names_its_recipes() -> None:
    text = "one:\n\tvllm serve m -tp 2\ntwo: one\n\tvllm serve m -tp 4\n"
    assert parse(text, which="two").job.tp == 4
    with pytest.raises(InputError, match="ifdef BIG in line 2: which way make takes is not read"):
        parse(f".PHONY: a\nifdef BIG\nTP=8\nendif\n{text}")


def test_a_dockerfile_without_a_command_says_so() -> None:
    with pytest.raises(NoLaunch, match="no CMD and no ENTRYPOINT"):
        parse(f"FROM {IMAGE}\nRUN pip install a\n")


def test_lines_of_a_unit_are_those_of_its_file() -> None:
    text = "[Unit]\nA=b\n\n[Service]\nExecStart=/opt/bin/vllm serve m \\\n  -tp 4\n"
    assert [f.origin.line for f in parse(text).flags if f.kind == "layout"] == [6]


# -- what ends a script ---------------------------------------------------------------------------------

ENDED = [
    ("A=1\nexit 0\nvllm serve m -tp 4\n", "`exit` in line 2", 3),
    ("return 0\nvllm serve m -tp 4\n", "`return` in line 1", 2),
    ("exec python other.py\nvllm serve m -tp 4\n", "`exec` in line 1", 2),
    (
        "A=x\nif [ $A = x ]; then\n exit\nfi\nvllm serve m -tp 4\n",
        "`exit` in line 3 (if [ $A = x ])",
        5,
    ),
    ("stop() {\n exit 1\n}\nstop\nvllm serve m -tp 4\n", "`exit` in line 2", 5),
]


@pytest.mark.parametrize(("text", "word", "line"), ENDED)
def test_what_ends_a_script_before_its_launch_is_named(text: str, word: str, line: int) -> None:
    with pytest.raises(NoLaunch) as error:
        parse(text)
    assert f"{word} ends the script before its launch of vLLM in line {line}" in error.value.message


def test_the_variable_that_ends_a_script_can_be_given() -> None:
    text = 'M="${M:-}"\nif [ -z "$M" ]; then\n exit 2\nfi\nvllm serve $M -tp 4\n'
    with pytest.raises(NoLaunch) as error:
        parse(text)
    assert "`values=M=…`" in str(error.value.legal)
    assert parse(text, values={"M": "m"}).job.model == "m"


def test_how_a_program_ends_is_not_known() -> None:
    read = parse("if tmux has-session -t a; then exit 0; fi\nvllm serve m -tp 4\n")
    assert read.job.tp == 4
    text = "if docker inspect a; then\n A='-tp 2'\nelse\n A='-tp 4'\nfi\nvllm serve m $A\n"
    with pytest.raises(InputError, match="which branch runs is not known"):
        parse(text)


def test_a_launch_after_the_end_is_noted() -> None:
    read = parse("vllm serve m -tp 2\nexit\nvllm serve m -tp 4\n")
    assert read.job.tp == 2 and any("line 2 ends the script" in n for n in read.notes)
    ended_by_itself = parse("vllm serve m -tp 2\nexit 0\n")
    assert not any("ends the script" in n for n in ended_by_itself.notes)


def test_redirects_of_exec_end_nothing() -> None:
    assert parse("exec > log 2>&1\nvllm serve m -tp 4\n").job.tp == 4


def test_a_long_list_of_commands() -> None:
    many = " && ".join(["true"] * 400)
    assert parse(f"{many} && vllm serve m -tp 4").job.tp == 4
    with pytest.raises(NoLaunch):
        parse(f"{many} && false && vllm serve m -tp 4")


RAY_JOB = """apiVersion: ray.io/v1
kind: RayJob
spec:
  entrypoint: vllm serve m --tensor-parallel-size {tp} --distributed-executor-backend ray
  rayClusterSpec:
    headGroupSpec:
      template: {{spec: {{containers: [{{name: h, image: v, resources: {{limits: {{nvidia.com/gpu: {head}}}}}}}]}}}}
    workerGroupSpecs:
    - replicas: {many}
      template: {{spec: {{containers: [{{name: w, image: v, resources: {{limits: {{nvidia.com/gpu: 4}}}}}}]}}}}
"""


@pytest.mark.parametrize(
    ("tp", "head", "many", "nodes"), [(8, 4, 1, 2), (8, 0, 2, 2), (16, 4, 3, 4), (4, 0, 1, None)]
)
def test_a_ray_job_is_over_the_pods_of_its_cluster(
    tp: int, head: int, many: int, nodes: int | None
) -> None:
    found = parse(RAY_JOB.format(tp=tp, head=head, many=many))
    assert (found.job.tp, found.nodes) == (tp, nodes)


@pytest.mark.parametrize("flag", ["--moe-a2a-backend deepep", "--enable-deepep-moe"])
def test_deepep_spreads_sglang_s_experts_over_all_ranks(flag: str) -> None:
    found = parse(f"sglang serve --model-path m --tp 16 --dp 8 --enable-dp-attention {flag}").job
    assert (found.tp, found.dp, found.ep, found.etp, found.dispatcher) == (2, 8, 16, 1, "deepep")
