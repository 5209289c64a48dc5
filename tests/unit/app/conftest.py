from tests.unit.workers.conftest import engine

__all__ = ["engine"]
