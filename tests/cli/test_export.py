"""
``protoserve export``: what is written, compared and refused.
"""

import pytest

from protoserve.cli.files import write_text
from protoserve.cli.targets import CommandError

PLACE = "tests.exporters.nasty:nasty"


@pytest.fixture
def export(command):
    """Export in this process; give exit code, output and errors."""
    return lambda *arguments: command("export", *arguments)


def test_a_file_is_written_and_checked(export, tmp_path):
    """What was written passes the check; what was changed fails it with a difference."""
    path = tmp_path / "client.py"
    code, out, err = export("client", PLACE, "-o", str(path))
    assert (0, "", "") == (code, out, err)
    code, out, err = export("client", PLACE, "-o", str(path), "--check")
    assert (0, "", "") == (code, out, err)
    text = path.read_text("utf-8")
    path.write_text(text.replace("session: 0 to 255.", "session: any."), "utf-8")
    code, out, err = export("client", PLACE, "--check", "-o", str(path))
    assert code == 1
    assert out == ""
    assert "-            session: any.\n+            session: 0 to 255.\n" in err
    assert err.endswith("is not what the declaration gives; export it anew\n")


def test_a_long_difference_is_cut(export, tmp_path):
    """Of a file that has little in common with what it should be, the start is shown."""
    path = tmp_path / "client.py"
    path.write_text("pass\n")
    code, _out, err = export("client", PLACE, "--check", "-o", str(path))
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == 42
    assert "more lines" in lines[-2]


@pytest.mark.parametrize("where", [(), ("-o", "-")], ids=["none", "dash"])
def test_standard_output(export, where):
    """Without a file the text goes to standard output."""
    code, out, _err = export("client", PLACE, *where)
    assert code == 0
    assert out.startswith('"""\nClients of nasty-thing 2')
    compile(out, "client.py", "exec")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["cliant", PLACE], "no export target 'cliant'; did you mean client?"),
        (["client", "tests.exporters.nasty:nast"], "did you mean nasty?"),
        (["client", "nowhere:nasty"], "there is no module 'nowhere'"),
        (["client", PLACE, "--check"], "say which one with -o FILE"),
        (["client", PLACE, "-o", "/nowhere/client.py"], "cannot write /nowhere"),
        (["client", PLACE, "-o", "."], "cannot write ."),
        (["client", PLACE, "-o", "/nowhere.py", "--check"], "cannot read /nowhere.py"),
    ],
)
def test_wrong_use_is_one_line(export, arguments, expected):
    """What a user can put right is one line on standard error, and exit code 2."""
    code, _out, err = export(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("protoserve: ")
    assert expected in line


def test_a_file_keeps_its_permissions_and_links(tmp_path):
    """What is replaced stays as open as it was, and a link goes on leading to it."""
    path, link = tmp_path / "client.py", tmp_path / "link.py"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_text("new", str(link))
    assert "new" == path.read_text()
    assert link.is_symlink()
    assert 0o640 == path.stat().st_mode & 0o777
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """A text that cannot be written leaves the file, and nothing beside it."""
    path = tmp_path / "client.py"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text("\udc80", str(path))
    assert "old" == path.read_text()
    assert [path] == list(tmp_path.iterdir())
    with pytest.raises(CommandError, match="cannot write"):
        write_text("new", str(tmp_path / "no" / "client.py"))


def test_help_names_the_targets(export):
    """The help has every target that there is."""
    from protoserve.exporters import TARGETS

    code, out, _err = export("--help")
    assert code == 0
    assert all(target in out for target in TARGETS)
