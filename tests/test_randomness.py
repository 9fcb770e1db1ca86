"""toque.random is the only source of randomness in the package."""

import ast
import re
from pathlib import Path

import toque

ROOT = Path(toque.__file__).parent
# What draws from hidden generator state, or reseeds it, as dotted names at the end of a call.
DRAWS = re.compile(
    r"""^(?:torch\.(?:manual_seed|seed|rand\w*|bernoulli|multinomial|normal|poisson)
        | (?:np|numpy)\.random\..+
        | .*\.(?:uniform_|normal_|random_|bernoulli_|exponential_|geometric_|log_normal_|cauchy_)
        | (?:uuid\.)?uuid[14] | os\.urandom | secrets\..+)$""",
    re.VERBOSE,
)
ALLOWED = {"random.py": "the source itself"}
# Names unlike any other on any host, of requests, of a start of the ranks and of files: they reach no
# bit. And verify looks whether a layer has touched the generators.
NAMES = {
    "deploy/serving/access.py": ["uuid.uuid4"],
    "layers/verification/state.py": ["random", "np.random.get_state"],
    "train/distributed/checkpoints.py": ["uuid.uuid4"],
    "train/distributed/joining.py": ["uuid.uuid4"],
    "train/distributed/saving.py": ["uuid.uuid4"],
}


def draws(source):
    """The calls in a file that draw, and its imports of generators; docstrings do not count."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and DRAWS.match(ast.unparse(node.func)):
            found.append(ast.unparse(node.func))
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name in ("random", "secrets")]
        if isinstance(node, ast.ImportFrom) and node.module in (
            "random",
            "secrets",
            "numpy.random",
        ):
            found.append(node.module)
    return found


def test_nothing_else_draws():
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in ALLOWED and (hits := draws(path.read_text())):
            found[name] = hits
    assert found == NAMES


def test_the_search_finds_what_it_looks_for():
    for line in (
        "torch.rand(3)",
        "torch.randint_like(x, 3)",
        "np.random.seed(1)",
        "x.uniform_(0, 1)",
        "import random",
        "from random import random",
        "torch.manual_seed(0)",
    ):
        assert draws(line), line
    for line in (
        "from toque import random",
        "key.uniform('a')",
        "random.seed_torch(0, 'init')",
        '"""torch.rand(3)"""',
    ):
        assert not draws(line), line
