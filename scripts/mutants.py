#!/usr/bin/env python3
"""Shows that the tests notice defects: complement-tests/mutants.toml lists some, which are put in one
at a time, and the tests that own what is broken must fail.

Called by scripts/mutants.sh. All defects are compiled into one copy of the sources, each behind a
switch that an environment variable turns on, so that there is one build and not one for each. At
first all the tests must pass with every switch off. Arguments are parts of names: of the defects alone
that have one of them.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = pathlib.Path(os.environ["MYELIN_CACHE"]) / "mutants"
LIMIT_SECONDS = 600


def fail(text):
    sys.exit(f"\n{text}")


def output(*command, cwd=ROOT):
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def switched(mutant):
    """The defect as it is written into the source."""
    on = 'std::env::var_os("MUTANT").is_some_and(|on| on == "%s")' % mutant["name"]
    return mutant["new"].replace("{on}", on)


def sources(mutants):
    """Every file of the repository, with all defects in it."""
    files = {}
    for name in output("git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            files[name] = (ROOT / name).read_bytes()
    for mutant in mutants:
        text = files[mutant["file"]].decode()
        if text.count(mutant["old"]) != 1:
            fail(f"{mutant['file']}: what \"{mutant['name']}\" replaces is not there exactly once: {mutant['old']}")
        files[mutant["file"]] = text.replace(mutant["old"], switched(mutant)).encode()
    return files


def copy(files):
    """Writes what differs from the last time, so that only that is compiled again."""
    for known in COPY.rglob("*"):
        if known.is_file() and str(known.relative_to(COPY)) not in files:
            known.unlink()
    for name, content in files.items():
        file = COPY / name
        if not file.is_file() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            if os.access(ROOT / name, os.X_OK):
                file.chmod(0o755)


def touch(tree, mutants):
    for mutant in mutants:
        (tree / mutant["file"]).touch()


def build(mutants, kept):
    """Compiles the copy; returns the test programs by package and name."""
    wanted = {program for mutant in mutants for program, _ in mutant["tests"]}
    targets = ["--lib", "--bin", "myelin"]
    targets += [part for name in ("it", "client_server", "federation") for part in ("--test", name)]
    # Copy and checkout are the same packages in the same directory: what was compiled for one must not
    # pass for the other.
    touch(COPY, mutants)
    command = ["cargo", "test", "--no-run", "--workspace", "--locked", "--message-format=json", *targets]
    built = subprocess.run(command, cwd=COPY, stdout=subprocess.PIPE, text=True)
    plain = ["cargo", "build", "--workspace", "--locked", "--message-format=json", "--bin", "myelin"]
    server = subprocess.run(plain, cwd=COPY, stdout=subprocess.PIPE, text=True)
    touch(ROOT, mutants)
    if built.returncode or server.returncode:
        fail("the sources with the defects in them do not compile")
    programs = {}
    for line in (built.stdout + server.stdout).splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact" or not message.get("executable"):
            continue
        package = pathlib.Path(message["manifest_path"]).parent
        package_name = "myelin" if package == COPY else package.name
        target = message["target"]["name"].replace("-", "_")
        kind = message["target"]["kind"][0]
        name = "server" if kind == "bin" and not message["profile"]["test"] else f"{package_name}/{target}"
        if kind == "bin" and name != "server":
            continue
        program = kept / name.replace("/", "-")
        shutil.copy2(message["executable"], program)
        programs[name] = (program, package)
    for missing in (wanted | {"server"}) - programs.keys():
        fail(f"there is no test program {missing}")
    return programs


def failures(programs, mutant, tests):
    """The tests that fail with this defect, or none at all."""
    environment = {**os.environ, "MYELIN_BIN": str(programs["server"][0])}
    if mutant:
        environment["MUTANT"] = mutant
    failed = []
    for name, wanted in tests:
        program, package = programs[name]
        try:
            done = subprocess.run(
                [program, wanted] if wanted else [program],
                cwd=package,
                env={**environment, "CARGO_MANIFEST_DIR": str(package)},
                capture_output=True,
                text=True,
                timeout=LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            failed.append(f"{name} does not end")
            continue
        lines = done.stdout.splitlines()
        if not any(line.startswith("running ") and not line.startswith("running 0 ") for line in lines):
            fail(f"{name}: no test has {wanted} in its name\n{done.stdout}{done.stderr}")
        failed += [line.split()[1] for line in lines if line.startswith("test ") and line.endswith("FAILED")]
        if done.returncode and not failed:
            failed.append(f"{name} ended with {done.returncode}")
        if failed and mutant:
            break
    return failed


def main():
    with open(ROOT / "complement-tests/mutants.toml", "rb") as file:
        mutants = tomllib.load(file)["mutant"]
    copy(sources(mutants))
    parts = sys.argv[1:] or [""]
    wanted = [mutant for mutant in mutants if any(part in mutant["name"] for part in parts)]
    kept = COPY.parent / f"mutants-{os.getpid()}"
    kept.mkdir()
    try:
        programs = build(mutants, kept)
        every = sorted({tuple(test) for mutant in wanted for test in mutant["tests"]})
        broken = failures(programs, None, every)
        if broken:
            fail("without any defect these fail: " + ", ".join(broken))
        survivors = 0
        print(f"\n{'defect':<58} caught by")
        for mutant in wanted:
            began = time.monotonic()
            caught = failures(programs, mutant["name"], mutant["tests"])
            survivors += not caught
            more = f" and {len(caught) - 1} more" if len(caught) > 1 else ""
            found = caught[0] + more if caught else "NOBODY"
            print(f"{mutant['name']:<58} {found} ({time.monotonic() - began:.0f} s)", flush=True)
    finally:
        shutil.rmtree(kept)
    print(f"\n{len(wanted) - survivors} of {len(wanted)} defects were caught")
    sys.exit(1 if survivors else 0)


main()
