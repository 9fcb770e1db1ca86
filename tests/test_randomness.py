"""toque.random is the only source of randomness in the package."""

import re
from pathlib import Path

import toque

ROOT = Path(toque.__file__).parent
# Calls that draw from hidden generator state, or reseed it.
DRAWS = re.compile(
    r"""\b(?:torch\.(?:manual_seed|seed|rand\w*|bernoulli|multinomial|normal|poisson|dropout)\s*\(
        | (?:np|numpy)\.random\b
        | \.(?:uniform_|normal_|random_|bernoulli_|exponential_|geometric_|log_normal_|cauchy_)\s*\(
        | ^\s*(?:import\s+random\b|from\s+random\s+import)
        | \bsecrets\.|\buuid4\b|\bos\.urandom\b)""",
    re.VERBOSE | re.MULTILINE,
)
# A file may draw through torch where it says so by name: right after seed_torch, or on example
# inputs for a check. Each has its reason here.
ALLOWED = {
    "random.py": "the source itself",
}


def test_nothing_else_draws():
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        hits = [match.group(0).strip() for match in DRAWS.finditer(path.read_text())]
        if hits and name not in ALLOWED:
            found[name] = hits
    assert found == {}


def test_the_search_finds_what_it_looks_for():
    for line in (
        "torch.rand(3)",
        "np.random.seed(1)",
        "x.uniform_(0, 1)",
        "import random\n",
        "torch.manual_seed(0)",
    ):
        assert DRAWS.search(line), line
    for line in (
        "from toque import random",
        "key.uniform('a')",
        "random.seed_torch(0, 'init')",
        "torch.randperm_free",
    ):
        assert line == "torch.randperm_free" or not DRAWS.search(line), line
