"""The launch scripts hand the right command to torchrun and srun."""

import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([str(TOOLS / script), *arguments], env=env, capture_output=True, text=True, check=False)


def test_too_few_arguments_print_the_usage() -> None:
    for script, needed in (
        ("dist_train.sh", "CONFIG PROCESSES"),
        ("dist_test.sh", "CONFIG CHECKPOINT PROCESSES"),
        ("slurm_train.sh", "PARTITION JOB CONFIG"),
        ("slurm_test.sh", "PARTITION JOB CONFIG CHECKPOINT"),
    ):
        done = launch(script, "only-one")
        assert done.returncode == 2
        assert f"{script} {needed} [arguments of " in done.stderr


def test_torchrun_gets_machines_processes_and_all_arguments() -> None:
    done = launch("dist_train.sh", "a config.py", "2", "--work-dir", "a b", PYTHON="echo", NNODES="3", NODE_RANK="1")
    words = done.stdout
    assert "-m torch.distributed.run --nnodes 3 --node_rank 1 --master_addr 127.0.0.1 --master_port 29500" in words
    assert words.endswith(f"--nproc_per_node 2 {TOOLS}/train.py a config.py --launcher pytorch --work-dir a b\n")
    done = launch("dist_test.sh", "config.py", "x.pth", "4", "--tta", PYTHON="echo", PORT="1", MASTER_ADDR="host")
    assert "--master_addr host --master_port 1 --nproc_per_node 4" in done.stdout
    assert done.stdout.endswith(f"{TOOLS}/test.py config.py x.pth --launcher pytorch --tta\n")


def test_srun_gets_the_partition_the_gpus_and_all_arguments(tmp_path: Path) -> None:
    # A cluster is not at hand: this srun shows how it was called.
    (tmp_path / "srun").write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='|')\n")
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = launch("slurm_train.sh", "gpu", "job", "config.py", "--amp", PATH=path, GPUS="4", SRUN_ARGS="--time 1:00")
    words = done.stdout.strip().split("|")
    assert words[:8] == ["--partition", "gpu", "--job-name", "job", "--ntasks", "4", "--ntasks-per-node", "4"]
    assert words[words.index("--gres") + 1] == "gpu:4"
    assert words[words.index("--time") + 1] == "1:00"
    assert words[-5:] == [f"{TOOLS}/train.py", "config.py", "--launcher", "slurm", "--amp"]
    done = launch("slurm_test.sh", "gpu", "job", "config.py", "x.pth", PATH=path, GPUS="16")
    words = done.stdout.strip().split("|")
    assert words[words.index("--ntasks-per-node") + 1] == "8"
    assert words[-5:] == [f"{TOOLS}/test.py", "config.py", "x.pth", "--launcher", "slurm"]
