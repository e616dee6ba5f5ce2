"""What the tests share: one account with the stack in it, and how far its use has come.

Each fixture from `lab` on is a chapter that follows the one it asks for; a test asks for the one it begins with.
"""

import completion
import pytest
from cloud import PROJECT, Stack, aws, packaged, start_account, transformed
from lab import GIVEN_UP, IMAGE, MODEL, SAMPLES, TRIES, Lab

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


@pytest.fixture(scope="session")
def lab(stack, tmp_path_factory):
    """The stack before anybody used it."""
    stack.withdraw_bucket_policies()
    lab = Lab(stack, tmp_path_factory.mktemp("logs"))
    yield lab
    for function in lab.functions.values():
        function.stop()


@pytest.fixture(scope="session")
def given_up(lab):
    """What was delivered, try by try, of an image that was uploaded long before there was a model."""
    lab.upload(GIVEN_UP)
    tries = [lab.poll() for _ in range(TRIES)]
    # Whoever asks once more makes SQS set it aside.
    assert lab.poll() == {stage: ([], []) for stage in tries[0]}
    return tries


@pytest.fixture(scope="session")
def early(lab, given_up):
    """An image that was uploaded before there was a model, by the aws client as users do, delivered once to each stage."""
    aws("s3", "cp", "--only-show-errors", SAMPLES / IMAGE, f"s3://{lab.input}/{IMAGE}")
    return lab.poll()


@pytest.fixture(scope="session")
def released(lab, early):
    """The sample model, tried on the sample golden set and released by the commands of docs/deploy.md."""
    aws("s3", "cp", "--recursive", "--only-show-errors", "--exclude", "*", "--include", "*.png",
        PROJECT / "models/golden", f"s3://{lab.models}/golden/")
    assert lab.model_events() == [], "a golden image is not a model"
    aws("s3", "cp", "--only-show-errors", MODEL, f"s3://{lab.models}/dev/model.onnx")
    (event,) = lab.model_events()
    answer = lab.functions["Gate"].invoke(event)
    aws("s3", "cp", "--only-show-errors", MODEL, f"s3://{lab.models}/prod/model.onnx")
    return answer


@pytest.fixture(scope="session")
def answered(lab, released):
    """The early image, delivered again now that there is a model."""
    return lab.poll()
