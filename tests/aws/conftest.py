"""What the tests share: one account with the stack in it."""

import boto3
import completion
import pytest
from cloud import Stack, aws, packaged, start_account, transformed

PARAMETERS = {"AlarmEmail": "oncall@lab.example"}


@pytest.fixture(scope="session")
def known_to_moto():
    """The types of resources that moto's CloudFormation makes by itself."""
    return completion.complete()


@pytest.fixture(scope="session")
def account():
    """moto, for the whole session."""
    server = start_account()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(account, tmp_path_factory):
    """The transformed template."""
    aws("s3", "mb", "s3://giemsa-packages")
    return transformed(packaged(tmp_path_factory.mktemp("package"), "giemsa-packages"), PARAMETERS)


@pytest.fixture(scope="session")
def stack(known_to_moto, template):
    """The stack `giemsa`, both stages."""
    return Stack("giemsa", template, PARAMETERS)
