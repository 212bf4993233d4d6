import pathlib
import re
import unittest

import bakes
from scoreboard import fetch, machine


class Pins(unittest.TestCase):
    def test_each_section_has_its_own_packages(self):
        text = "# words\n\n# [installed] here\na==1\n# more words\nb==2.0\n\n# [unpacked] only\nc==3\n"
        self.assertEqual(fetch.pins("installed", text), {"a": "1", "b": "2.0"})
        self.assertEqual(fetch.pins("unpacked", text), {"c": "3"})

    def test_no_package_is_in_both_sections(self):
        self.assertFalse(set(fetch.pins("installed")) & set(fetch.pins("unpacked")))

    def test_artifacts_are_scored_on_the_onnx_runtime_that_bakes_measure_with(self):
        script = (bakes.ROOT / "scripts" / "ort.sh").read_text()
        self.assertEqual(fetch.pins("installed")["onnxruntime"], re.search(r"^version=(.+)$", script, re.M)[1])

    def test_names_are_compared_as_the_index_does(self):
        self.assertEqual(fetch.plain("pyannote.audio"), fetch.plain("pyannote_Audio"))


class Cpu(unittest.TestCase):
    def test_x86_and_arm_are_read(self):
        x86 = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"
        self.assertEqual(machine.cpu_info(x86), {"cpu": "AMD EPYC (family 26, model 2)", "vectors": ["avx2", "avx512_vnni"]})
        self.assertEqual(machine.cpu_info("processor : 0\nFeatures : fp asimd i8mm\n")["vectors"], ["asimd", "i8mm"])


class Layout(unittest.TestCase):
    def test_every_part_that_runs_by_itself_says_how(self):
        folder = pathlib.Path(fetch.__file__).parent
        for module in ("export", "peers", "score"):
            self.assertIn("usage:", (folder / f"{module}.py").read_text().split('"""')[1], module)
