from tests.unit.usecases.conftest import authority as authority
