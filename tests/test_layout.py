"""The rooms of the package: each has a face that names all that others may use, and nobody goes past it."""

import ast
import importlib
from pathlib import Path

import pytest

import raygen

ROOT = Path(raygen.__file__).parent
FACES = sorted(path.parent.name for path in ROOT.glob("*/__init__.pyi"))
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def imports(path: Path) -> list[str]:
    """Return the dotted names of the modules that a file imports from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_past_the_face_of_another_room(path):
    own = path.relative_to(ROOT).parts[0]
    past = [
        name
        for name in imports(path)
        if name.startswith("raygen.") and name.count(".") > 1 and name.split(".")[1] not in (own, "recipes")
    ]
    assert past == []


@pytest.mark.parametrize("face", FACES)
def test_each_name_of_a_face_is_there_and_none_is_hidden_by_a_file_of_its_name(face):
    room = importlib.import_module(f"raygen.{face}")
    assert room.__all__
    for name in room.__all__:
        assert not (ROOT / face / f"{name}.py").exists()
        assert getattr(room, name) is not None


def test_every_room_has_a_face():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms - set(FACES) <= {"cli", "recipes"}
