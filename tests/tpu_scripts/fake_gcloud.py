"""Replaces gcloud: records its arguments, plays scripted answers, and runs `ssh` and `scp` on folders.

FAKE_GCLOUD names a folder with answers.json: {kind: [answer, ...]}, where the last answer repeats, and the kind is
`create`, `describe`, `delete`, `node`, `scp`, `rsync`, `ssh install`, `ssh start`, `ssh status`, `ssh stop`, `ssh tail`
or `ssh tar`. An answer is what is printed, or [exit code, stdout, stderr], or "RUN": done in the folders workers/0,
workers/1 ... as sshd does it on the machines. FAKE_BUCKET is a folder that plays gs://my-bucket.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

DEFAULTS = {"describe": "ACTIVE", "node": "READY", "ssh status": "tessera: w-0 exited 0"}


def option(words, name):
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"--{name}=")), "")


def kind_of(words):
    if words[1:3] == ["tpus", "queued-resources"]:
        return words[3]
    if words[1:3] == ["tpus", "tpu-vm"] and words[3] == "ssh":
        return "ssh " + re.findall(r"^(?:tail|tar)\b|(?<=worker\.sh )\w+", option(words, "command"))[-1]
    if words[1:3] == ["tpus", "tpu-vm"]:
        return "node" if words[3] == "describe" else words[3]
    return words[1]


def next_answer(folder, kind):
    file = folder / "answers.json"
    answers = json.loads(file.read_text()) if file.exists() else {}
    left = answers.get(kind, [DEFAULTS.get(kind, "")])
    if len(left) > 1:
        file.write_text(json.dumps(answers | {kind: left[1:]}))
    return left[0]


def on_workers(folder, words):
    """The first exit code that is not 0. gcloud splits a command at its spaces, and ssh joins the words again."""
    workers = sorted((folder / "workers").iterdir())
    if option(words, "worker") != "all":
        workers = [workers[int(option(words, "worker") or 0)]]
    codes = []
    for home in workers:
        if words[3] == "scp":
            shutil.copy(words[4], home / words[5].split(":")[1])
            continue
        command = " ".join(option(words, "command").split(" "))
        codes.append(subprocess.run(["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)}).returncode)
    return next(filter(None, codes), 0)


def main(words):
    folder = Path(os.environ["FAKE_GCLOUD"])
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    kind = kind_of(words)
    answer = next_answer(folder, kind)
    if kind == "rsync" and "FAKE_BUCKET" in os.environ:
        source = words[2].replace("gs://my-bucket", os.environ["FAKE_BUCKET"])
        shutil.copytree(source, words[3], dirs_exist_ok=True)
    if answer == "RUN":
        return on_workers(folder, words)
    code, out, err = answer if isinstance(answer, list) else (0, answer, "")
    print(out, end="\n" if out else "")
    print(err, end="\n" if err else "", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
