"""The guide's example, which asks an .onnx file where there is neither toque nor PyTorch."""

import json
import subprocess
import sys

from tests import guides

_FIRST = "import sys; sys.modules.update(dict.fromkeys(('torch', 'toque')))\n"
_LAST = """
said = Asked(sys.argv[1])(sys.argv[2])
print(json.dumps(said.tolist() if isinstance(said, numpy.ndarray) else said))
"""


def asked(model, image):
    """What the example says of an image file: as it returns it, a mask as lists."""
    (example,) = (code for _, code in guides.blocks("deploy.md", "python") if "class Asked" in code)
    code = example[: example.index("\nprint(")]
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    words = [sys.executable, "-P", "-c", _FIRST + code + _LAST, str(model), str(image)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
