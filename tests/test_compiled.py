"""Only one process at a time imports and compiles librosa: two at once would damage its cache for all later ones."""
import pathlib
import re
import threading

from common import compiled


def test_second_user_waits_for_the_first():
    entered, leave = threading.Event(), threading.Event()

    def second():
        with compiled.one_at_a_time():
            entered.set()
            leave.wait(60.0)
    with compiled.one_at_a_time():
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(60.0)
    leave.set()
    thread.join()


def test_only_compiled_py_imports_librosa():
    found = [path.name for path in pathlib.Path(compiled.__file__).parent.glob("*.py")
             if re.search(r"^\s*(import|from) librosa", path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert found == ["compiled.py"]
