"""An AWS account in this process: moto, and in it the stack of infra/template.yaml as `make deploy` would send it.

The template is packaged by the aws client, transformed by SAM's own translator, and created through CloudFormation's API.
Invariant: nothing leaves this machine; credentials and endpoint are moto's before any client exists.
"""

import contextlib
import copy
import io
import itertools
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import boto3
from botocore.exceptions import ClientError
from moto.core.serialize import S3Serializer
from moto.events.models import Rule
from moto.server import ThreadedMotoServer
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

PROJECT = Path(__file__).resolve().parents[3]
REGION = "eu-central-1"
FUNCTIONS = ["classifier", "gate", "dashboard"]

# The root of S3's answer, where moto names it after the operation; the SDK of the functions insists on S3's.
ROOTS = {"GetBucketVersioning": "VersioningConfiguration"}
# moto's events of S3 all have this one, by which nothing is newer than anything.
SEQUENCER = "617f08299329d189"


def name_roots_as_s3():
    """Corrects moto's answers by ROOTS."""
    of_moto = S3Serializer._serialized_result_to_response

    def corrected(self, *arguments):
        response = of_moto(self, *arguments)
        operation = self.operation_model.name
        if operation in ROOTS:
            assert f"<{operation}Response " in response["body"], "moto is right by now"
            response["body"] = response["body"].replace(f"{operation}Response", ROOTS[operation])
        return response

    S3Serializer._serialized_result_to_response = corrected


def number_events_of_s3():
    """Gives each event of S3 a sequencer above those before it, as S3 does."""
    of_moto, numbers = Rule.send_to_targets, itertools.count(int(SEQUENCER, 16))

    def corrected(self, event, **arguments):
        if event["source"] == "aws.s3":
            event = copy.deepcopy(event)
            assert event["detail"]["object"]["sequencer"] == SEQUENCER, "moto is right by now"
            event["detail"]["object"]["sequencer"] = f"{next(numbers):016X}"
        of_moto(self, event, **arguments)

    Rule.send_to_targets = corrected


def start_account():
    """moto on loopback, and the environment in which every client here, and every program, asks it. Ended by `stop`."""
    name_roots_as_s3()
    number_events_of_s3()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://{host}:{port}",
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_REGION=REGION,
        AWS_DEFAULT_REGION=REGION,
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
    )
    return server


def aws(*arguments):
    """Runs the aws client."""
    command = [os.environ["GIEMSA_TEST_AWS"], *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def packaged(folder, bucket):
    """The template as `aws cloudformation package` sends it, with YAML's aliases written out and packages in `bucket`.

    moto runs no function, so a package holds the name of the binary that cargo built, which is what is run.
    """
    for name in ["infra", "target/lambda"]:
        (folder / name).mkdir(parents=True)
    shutil.copy(PROJECT / "infra/template.yaml", folder / "infra")
    for name in FUNCTIONS:
        with zipfile.ZipFile(folder / f"target/lambda/{name}.zip", "w") as package:
            package.writestr("bootstrap", name)
    sent = folder / "packaged.yaml"
    aws("cloudformation", "package", "--template-file", folder / "infra/template.yaml", "--s3-bucket", bucket,
        "--output-template-file", sent)
    return yaml_parse(sent.read_text(encoding="utf-8"))


def transformed(template, parameters):
    """The template after SAM's transform, as CloudFormation carries it out."""
    session = boto3.session.Session(region_name=REGION)
    return Translator({}, Parser(), boto_session=session).translate(template, parameters)


class Stack:
    """A stack that moto made, and what it was made of."""

    def __init__(self, name, template, parameters):
        self.template = template
        client = boto3.client("cloudformation")
        client.create_stack(
            StackName=name,
            TemplateBody=json.dumps(template, default=str),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        described = client.describe_stacks(StackName=name)["Stacks"][0]
        assert described["StackStatus"] == "CREATE_COMPLETE", described
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
        pages = client.get_paginator("list_stack_resources").paginate(StackName=name)
        self.withdrawn = {}
        resources = {made["LogicalResourceId"]: made for page in pages for made in page["StackResourceSummaries"]}
        # What a condition leaves out moto lists without a name.
        self.resources = {resource: made for resource, made in resources.items() if resource}

        # The tests stand in for what these do, and take them out of their way.
        lambdas, events = boto3.client("lambda"), boto3.client("events")
        self.mappings = {
            mapping["EventSourceArn"].rsplit(":", 1)[1]: mapping
            for mapping in of_all_pages(lambdas, "list_event_source_mappings", "EventSourceMappings")
            if mapping["UUID"] in self.of_type("AWS::Lambda::EventSourceMapping").values()
        }
        self.targets = {
            rule: events.list_targets_by_rule(Rule=made)["Targets"]
            for rule, made in self.of_type("AWS::Events::Rule").items()
        }

    def of_type(self, kind):
        """Names and ids of all resources of a type."""
        return {name: made["PhysicalResourceId"] for name, made in self.resources.items() if made["ResourceType"] == kind}

    def id(self, resource):
        """What CloudFormation's `!Ref` gives."""
        return self.resources[resource]["PhysicalResourceId"]

    def bucket_policy(self, resource):
        """The policy that the stack gave a bucket."""
        if resource not in self.withdrawn:
            return json.loads(boto3.client("s3").get_bucket_policy(Bucket=self.id(resource))["Policy"])
        return self.withdrawn[resource]

    def queue(self, resource):
        """All attributes of a queue."""
        return attributes(self.id(resource))

    def function(self, resource):
        """The configuration of a function."""
        return boto3.client("lambda").get_function_configuration(FunctionName=self.id(resource))

    def binary(self, resource):
        """Name of the binary in the package that the template gives a function."""
        code = self.template["Resources"][resource]["Properties"]["Code"]
        body = boto3.client("s3").get_object(Bucket=code["S3Bucket"], Key=code["S3Key"])["Body"]
        with zipfile.ZipFile(io.BytesIO(body.read())) as package:
            return package.read("bootstrap").decode()

    def withdraw_bucket_policies(self):
        """Takes the policies off the buckets: moto carries out a denial without its condition, and so denies all."""
        client = boto3.client("s3")
        with contextlib.suppress(ClientError):
            client.put_object(Bucket=self.id("InputBucket"), Key="denied", Body=b"")
            raise AssertionError("moto is right by now")
        for resource in self.of_type("AWS::S3::Bucket"):
            policy = self.bucket_policy(resource)
            client.delete_bucket_policy(Bucket=self.id(resource))
            self.withdrawn[resource] = policy


def attributes(queue):
    """All attributes of a queue."""
    return boto3.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]


def of_all_pages(client, operation, key, **arguments):
    """A listing, whole."""
    return [item for page in client.get_paginator(operation).paginate(**arguments) for item in page[key]]
