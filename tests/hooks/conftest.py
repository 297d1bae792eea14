"""Trainings in processes of their own, which can be killed."""

import pytest

from ..helpers.toy_training import Trainings


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("trainings"))
