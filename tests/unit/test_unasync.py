"""The tool that generates the synchronous client from the asynchronous client."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.untraced

TOOL = Path(__file__).parents[2] / "tools" / "unasync.py"


@pytest.fixture
def unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "line", ["asyncio.run(main())", "async for each in stream:", '"""Close it on this loop."""']
)
def test_an_asynchronous_word_without_a_replacement_is_refused(
    unasync: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    monkeypatch.setattr(unasync, "CLIENT", tmp_path)
    (tmp_path / "aio.py").write_text(f'"""The client for asyncio."""\n\n{line}\n')
    with pytest.raises(ValueError, match="no substitution"):
        unasync.synchronous("aio.py")
