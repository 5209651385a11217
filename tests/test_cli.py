"""The command line as a user meets it: help, versions, wrong words, bad files, pipes, signals."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import numpy as np
import pytest
from pickle_code import pickle, tensor, text
from safetensors.numpy import save_file
from zip_bytes import Entry, build

import wtool
from wtool.cli import COMMANDS, _wtool, run

FIXTURES = Path(__file__).parent.parent / "fixtures"
CNN = str(FIXTURES / "digits-cnn.pth")
WTOOL = [sys.executable, "-m", "wtool.cli"]


def answer(capsys, *words: str) -> tuple[int, str, str]:
    code = run(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_command_and_exits_0(capsys):
    code, out, _ = answer(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    code, out, _ = answer(capsys, command, "--help")
    assert code == 0
    assert f"wtool {command} " in out
    assert "Example" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_a_function_of_the_package(command):
    function = getattr(wtool, command)
    assert callable(function)
    assert function.__doc__


def test_version_names_wtool_and_the_libraries(capsys):
    code, out, _ = answer(capsys, "--version")
    assert code == 0
    assert out.startswith(f"wtool {wtool.__version__}, Python {sys.version.split()[0]}\nnumpy ")


@pytest.mark.parametrize(
    "words",
    [
        ["lss", CNN],
        ["ls"],
        ["ls", CNN, "--frmat", "json"],
        ["ls", CNN, "--format", "yaml"],
        ["ls", CNN, "--select", "no-such-*"],
        ["ls", CNN, "--select", "re:("],
        ["ls", CNN, "--root", "nowhere"],
        ["ls", CNN, "--globals", "--extras"],
        ["count", CNN, "--by", "depth:0"],
        ["count", CNN, "--by", "size"],
        ["count", CNN, "--jobs", "0"],
    ],
)
def test_wrong_words_exit_2_with_one_clear_message(capsys, words):
    code, out, err = answer(capsys, *words)
    assert code == 2
    assert out == "" or words == ["ls"]
    assert err == "" or "rror" in err or "Usage" in err


def test_a_command_that_is_not_there_is_answered_with_those_that_are(capsys):
    assert "Did you mean 'check'?" in answer(capsys, "chek", CNN)[2]
    assert "Did you mean 'stats'?" in answer(capsys, "stat", CNN)[2]
    assert all(command in answer(capsys, "\x1b[31m", CNN)[2] for command in COMMANDS)
    assert "\x1b" not in answer(capsys, "\x1b[31m", CNN)[2]


def test_a_missing_file_exits_3_and_names_it(capsys):
    code, out, err = answer(capsys, "ls", "no/such/model.pth")
    assert (code, out) == (3, "")
    assert err == "wtool: error: no/such/model.pth: no such file, directory or checkpoint prefix\n"


def test_an_empty_path_is_seen_in_its_error(capsys):
    """`wtool check "$MODEL"` of a script that forgot to set it."""
    assert answer(capsys, "check", "")[2].startswith("wtool: error: '': no such file")


def test_a_text_file_named_pth_exits_3_on_one_line(capsys, tmp_path):
    (tmp_path / "model.pth").write_text("hello, I am not a model\n" * 40)
    code, out, err = answer(capsys, "ls", str(tmp_path / "model.pth"))
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert "model.pth" in err


def test_a_file_cut_in_half_exits_3_on_one_line(capsys, tmp_path):
    whole = Path(CNN).read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    code, out, err = answer(capsys, "stats", str(tmp_path / "half.pth"))
    assert (code, out) == (3, "")
    assert err.count("\n") == 1


def test_a_directory_without_weights_exits_3(capsys, tmp_path):
    code, _, err = answer(capsys, "ls", str(tmp_path))
    assert code == 3
    assert str(tmp_path) in err


def test_the_reader_of_a_pipe_may_leave(tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [*WTOOL, "ls", CNN], stdout=write_end, stderr=subprocess.PIPE, text=True
    )
    os.close(write_end)
    assert process.returncode == 141
    assert process.stderr == ""


def test_ctrl_c_exits_130_without_a_traceback():
    program = (
        "import os, signal, time, wtool.cli as c\n"
        "def interrupted(*a, **k): os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n"
        "c._wtool.main = interrupted\n"
        "raise SystemExit(c.run(['ls', 'x']))\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 130
    assert process.stderr == "wtool: interrupted\n"


def fake_command(body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """`wtool` with a command made of `body`, in a process of its own that does `before` first."""
    program = (
        "import os, signal, time\n"
        "import wtool.cli as c\n"
        f"{before}\n"
        "def command(*a, **k):\n"
        f"{textwrap.indent(body, '    ')}\n"
        "c._wtool.main = command\n"
        "c.main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )


STOPS = [("SIGINT", 130, "wtool: interrupted\n"), ("SIGTERM", 143, "wtool: terminated\n")]


@pytest.mark.parametrize(("signal", "code", "said"), STOPS)
def test_a_stop_signal_that_a_library_turns_into_its_own_error_is_still_a_stop(signal, code, said):
    """Python itself does so: what is raised in __set_name__ becomes a RuntimeError."""
    process = fake_command(
        f"try: os.kill(os.getpid(), signal.{signal}); time.sleep(5)\n"
        "except BaseException as error: raise RuntimeError('of a library') from error"
    )
    assert (process.returncode, process.stderr) == (code, said)


@pytest.mark.parametrize(("signal", "code", "said"), STOPS)
def test_a_second_stop_signal_does_not_stop_the_cleaning_up(signal, code, said):
    process = fake_command(
        f"try: os.kill(os.getpid(), signal.{signal}); time.sleep(5)\n"
        "finally:\n"
        "    for number in (signal.SIGINT, signal.SIGTERM):\n"
        "        os.kill(os.getpid(), number)\n"
        "        time.sleep(0.01)\n"
        "    print('cleaned')"
    )
    assert (process.returncode, process.stdout, process.stderr) == (code, "cleaned\n", said)


@pytest.mark.parametrize(("signal", "code", "said"), STOPS)
def test_a_stop_signal_that_was_dropped_may_be_given_again(signal, code, said):
    process = fake_command(
        f"try: os.kill(os.getpid(), signal.{signal}); time.sleep(5)\n"
        "except BaseException: pass\n"
        f"os.kill(os.getpid(), signal.{signal})\n"
        "time.sleep(5)"
    )
    assert (process.returncode, process.stderr) == (code, said)


def test_a_signal_that_the_caller_ignores_stays_ignored():
    process = fake_command(
        "os.kill(os.getpid(), signal.SIGINT)\nreturn 0",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
    )
    assert (process.returncode, process.stderr) == (0, "")


def test_a_bug_exits_70_and_asks_for_a_report(capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("wtool.cli._wtool.main", broken)
    code, _, err = answer(capsys, "ls", CNN)
    assert code == 70
    assert "bug in wtool: ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    monkeypatch.setenv("WTOOL_DEBUG", "1")
    assert "Traceback" in answer(capsys, "ls", CNN)[2]


def test_output_goes_to_a_file_and_never_over_one_without_force(capsys, tmp_path):
    target = tmp_path / "list.json"
    words = ["ls", CNN, "--format", "json", "-o", str(target)]
    assert answer(capsys, *words)[:2] == (0, "")
    assert json.loads(target.read_text())["command"] == "ls"
    code, _, err = answer(capsys, *words)
    assert code == 5
    assert "exists" in err
    assert answer(capsys, *words, "--force")[0] == 0


def test_a_dash_is_standard_output_and_never_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, "ls", CNN, "-o", "-") == answer(capsys, "ls", CNN)
    assert answer(capsys, "manifest", CNN, "-o", "-")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_as_output_is_not_said_to_be_replaced_by_force(capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for options in ((), ("--force",)):
        code, _, err = answer(capsys, "ls", CNN, "-o", str(tmp_path / "pipe"), *options)
        assert code == 5
        assert "not a regular file: found a pipe" in err


def test_completion_completes_commands():
    environment = {
        **os.environ,
        "_WTOOL_COMPLETE": "bash_complete",
        "COMP_WORDS": "wtool co",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from wtool.cli import _wtool; _wtool(prog_name='wtool')"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "plain,count" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_completes_names_of_files(command):
    """bash asks nobody else once a command has its completion."""
    params = _wtool.get_command(click.Context(_wtool), command).params
    paths = "--output --policy --original --like --template --against --previous --save --map"
    for param in params:
        if isinstance(param, click.Argument) or {*paths.split()} & {*param.opts}:
            found = param.type.shell_complete(click.Context(_wtool), param, "m")
            assert [item.type for item in found] == ["file"], param.opts


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(capsys, shell):
    code, out, _ = answer(capsys, "completion", shell)
    assert code == 0
    assert "_WTOOL_COMPLETE" in out


def test_listing_imports_neither_numpy_nor_a_framework():
    program = (
        "import sys, wtool.cli as c\n"
        f"assert c.run(['ls', {CNN!r}]) == 0\n"
        "heavy = {'numpy', 'torch', 'tensorflow', 'h5py', 'numba', 'pickle'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_several_models_share_one_report(capsys):
    code, out, _ = answer(capsys, "count", CNN, CNN, "--format", "json")
    report = json.loads(out)
    assert code == 0
    assert report["sources"] == [CNN, CNN]
    assert {row["model"] for row in report["rows"]} == {CNN}
    single = json.loads(answer(capsys, "count", CNN, "--format", "json")[1])
    assert report["totals"]["parameters"] == 2 * single["totals"]["parameters"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "words",
    [
        ["ls", CNN],
        ["check", CNN, "--format", "sarif"],
        ["--help"],
        ["ls", "-h"],
        ["--version"],
        ["completion", "bash"],
        ["completion", "--help"],
    ],
)
def test_a_full_disk_behind_standard_output_exits_5(words):
    with open("/dev/full", "w") as full:
        process = subprocess.run([*WTOOL, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 5
    expected = "wtool: error: standard output: cannot write: no space left on device\n"
    assert process.stderr == expected


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["ls", "missing.pth"], 3),
        (["ls", "--nonsense"], 2),
        (["ls", str(FIXTURES / "odd" / "sparse.pth")], 0),
        (["stats", CNN, "--progress"], 0),
        (["diff", CNN, str(FIXTURES / "digits-cnn-fresh.pth")], 1),
    ],
)
def test_the_exit_code_is_that_of_the_answer_where_standard_error_takes_nothing(words, code):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*WTOOL, *words], stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == code
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run([*WTOOL, *words], stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert (gone.returncode, gone.stdout) == (code, done.stdout)


def test_closed_streams_are_no_bug():
    closing = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"

    def run_without(stream: int, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", closing, str(stream), *WTOOL, *words]
        return subprocess.run(command, capture_output=True, text=True)

    done = run_without(1, "ls", CNN)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "wtool: error: standard output: cannot write: it is closed\n"
    assert run_without(1, "--help").returncode == 5
    assert run_without(2, "ls", "missing.pth").returncode == 3


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "koi8-r", "iso8859-5", "euc-jp"])
def test_a_letter_that_an_encoding_lacks_never_becomes_another(encoding, tmp_path):
    names = ["dé", "Жж", "日", "bothé日"]
    save_file({name: np.zeros(1) for name in names}, tmp_path / "m.safetensors")
    raw = os.fsdecode(b"m-\xfe\xff.safetensors")
    os.rename(tmp_path / "m.safetensors", tmp_path / raw)
    done = subprocess.run(
        [*WTOOL, "ls", raw, "--format", "csv"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        cwd=tmp_path,
    )
    found = [line.split(b",")[0] for line in done.stdout.splitlines()[1:]]
    assert sorted(found) == sorted(name.encode(encoding, "backslashreplace") for name in names)
    assert done.stdout.count(b"m-\xfe\xff.safetensors") == len(names)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8:strict"])
def test_what_an_encoding_lacks_is_spelled_out(encoding, tmp_path):
    name = os.fsdecode(b"caf\xe9.pth")
    (tmp_path / name).write_bytes(Path(CNN).read_bytes())
    environment = {**os.environ, "PYTHONIOENCODING": encoding}

    def printed(*words: str) -> bytes:
        done = subprocess.run([*WTOOL, *words], capture_output=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    conv = printed("stats", CNN).split(b"\n")[2]
    blocks = "4548368335574234".translate({ord("0") + n: 0x2580 + n for n in range(1, 9)})
    assert conv.endswith(blocks.encode() if "utf" in encoding else b"  4548368335574234")
    rows = printed("ls", name, "--format", "csv").split(b"\n")
    assert b"caf\xe9.pth" in rows[1]


@pytest.mark.parametrize("format", ["csv", "json", "table", "markdown", "html"])
def test_names_that_are_no_text_go_into_a_file(format, tmp_path):
    """Half of a surrogate pair, which only a pickle can hold, and a byte that is no UTF-8."""
    names = ["a\ud800b", "caf\udce9"]
    body = pickle(b"}", *(text(name) + tensor() + b"s" for name in names))
    records = {"data.pkl": body, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"}
    entries = [Entry(f"a/{name}".encode(), data) for name, data in records.items()]
    (tmp_path / "m.pth").write_bytes(build(entries))
    report = tmp_path / "report"
    assert run(["ls", str(tmp_path / "m.pth"), "--format", format, "-o", str(report)]) == 0
    assert b"\\ud800b" in report.read_bytes()
    if format == "csv":
        assert [row.split(b",")[0] for row in report.read_bytes().splitlines()[1:]] == [
            b"a\\ud800b",
            b"caf\xe9",
        ]
    draft = str(tmp_path / "draft.toml")
    keras_file = str(FIXTURES / "digits-cnn.weights.h5")
    assert run(["map", str(tmp_path / "m.pth"), keras_file, "--save", draft]) == 1


def test_a_report_prints_as_its_table_and_names_are_found(capsys):
    code, out, _ = answer(capsys, "count", CNN)
    assert code == 0
    assert str(wtool.count(wtool.open(CNN))) == out.rstrip("\n")
    assert repr(wtool.count(CNN)) == "<Report of count: 7 rows, ok=True>"
    assert set(COMMANDS) <= set(dir(wtool))
    checkpoint = wtool.open(CNN)
    assert repr(checkpoint) == f"<Checkpoint {CNN!r}: torch-zip, 19 tensors>"
    expected = "<Tensor 'fc2.weight': float32 [10, 24], weight of dense 'fc2'>"
    assert repr(checkpoint["fc2.weight"]) == expected


@pytest.mark.parametrize("command", ["ls", "count", "stats", "init", "check", "doctor"])
@pytest.mark.parametrize("kind", [str, Path, wtool.open], ids=["text", "path", "checkpoint"])
def test_functions_take_a_path_or_a_checkpoint(command, kind):
    function = getattr(wtool, command)
    assert function(kind(CNN)).rows == function(CNN).rows


def test_two_models_are_compared_by_path_too():
    fresh = CNN.replace("cnn", "cnn-fresh")
    expected = wtool.diff(wtool.open(fresh), wtool.open(CNN)).rows
    assert wtool.diff(Path(fresh), Path(CNN)).rows == expected
    assert wtool.diff(fresh, CNN).rows == expected
