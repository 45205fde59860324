"""librosa is imported and compiled by one process at a time: two at once spoil it for all that come after."""
import pathlib
import re
import threading

import compiled


def test_the_second_one_waits():
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


def test_nobody_imports_librosa_otherwise():
    found = [path.name for path in pathlib.Path(compiled.__file__).parent.glob("*.py")
             if re.search(r"^\s*(import|from) librosa", path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert found == ["compiled.py"]
