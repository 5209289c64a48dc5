from tests.unit.usecases.conftest import authority as authority
from tests.unit.workers.conftest import engine as engine
