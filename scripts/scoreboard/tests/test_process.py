import sys
import time
import unittest

from scoreboard import process


def answer(code, limit=20):
    return process.answer([sys.executable, "-c", code], limit, ".")


class Answer(unittest.TestCase):
    def test_the_last_line_is_the_answer(self):
        self.assertEqual(answer("print('a library talks'); print('{\"a\": 1}')"), {"a": 1})

    def test_an_end_without_an_answer_is_told_in_its_own_words(self):
        with self.assertRaisesRegex(process.Failed, "exit code 3: it broke"):
            answer("import sys; print('it broke', file=sys.stderr); sys.exit(3)")

    def test_a_crash_is_told_by_its_signal(self):
        with self.assertRaisesRegex(process.Failed, "killed by SIGSEGV"):
            answer("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")

    def test_what_takes_too_long_is_ended_with_its_children(self):
        began = time.monotonic()
        with self.assertRaisesRegex(process.Failed, "time limit of 1 s"):
            answer("import subprocess; subprocess.run(['sleep', '60'])", limit=1)
        self.assertLess(time.monotonic() - began, 20)
