"""What the template makes, asked of the services themselves: where a mistake would lose an image, or show one to strangers.

tests/infra holds the template's text and the code together; this is what becomes of that text in an account, after SAM's
transform, conditions and references.
"""

import ast
import json
import re

import boto3
import pytest
from cloud import PROJECT, Stack, of_all_pages
from completion import COMPLETED
from conftest import PARAMETERS
from lab import STAGES

BUCKETS = ["InputBucket", "ModelBucket", "ResultsBucket", "AccessLogBucket"]


def kinds(template):
    return {resource["Type"] for resource in template["Resources"].values()}


def test_every_resource_of_the_template_is_made(stack, template):
    assert set(stack.resources) == set(template["Resources"])
    assert {made["ResourceStatus"] for made in stack.resources.values()} == {"CREATE_COMPLETE"}
    # What could not be resolved stays as it was written.
    assert "${" not in json.dumps(stack.outputs)


def test_only_what_moto_does_not_know_is_made_in_its_place(known_to_moto, template):
    assert set(COMPLETED) & known_to_moto == set(), "moto knows these by now: take them out of tests/py/aws/completion.py"
    assert kinds(template) - known_to_moto == set(COMPLETED)


def test_without_dev_there_is_all_of_prod_and_nothing_of_dev(stack, template):
    parameters = PARAMETERS | {"Stages": "prod"}
    alone = Stack("alone", template, parameters)
    of_dev = {name for name, resource in template["Resources"].items() if resource.get("Condition") == "HasDev"}
    assert "DevQueue" in of_dev and "DevClassifier" in of_dev
    # SAM gives what it makes of a function the function's condition.
    assert "DevClassifierUploads" in of_dev
    assert set(alone.resources) == set(stack.resources) - of_dev
    assert [target["Arn"] for target in alone.targets["UploadRule"]] == [alone.queue("ProdQueue")["QueueArn"]]
    variables = alone.function("Dashboard")["Environment"]["Variables"]
    assert variables["GIEMSA_STAGES"] == "prod"
    assert variables["GIEMSA_QUEUE_URLS"] == f"prod={alone.id('ProdQueue')}"
    # The same as beside dev, in other words: no resource of prod depends on dev.
    assert alone.function("ProdClassifier")["Environment"]["Variables"].keys() == (
        stack.function("ProdClassifier")["Environment"]["Variables"].keys()
    )


def test_buckets_of_the_lab_are_used_in_place_of_own_ones(template):
    s3 = boto3.client("s3")
    own = {"ExistingInputBucket": "slides-of-2025", "ExistingModelBucket": "models-of-2025"}
    for name in own.values():
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    brought = Stack("brought", template, PARAMETERS | own)
    assert not {"InputBucket", "InputBucketPolicy", "ModelBucket", "ModelBucketPolicy"} & set(brought.resources)
    assert (brought.outputs["InputBucket"], brought.outputs["ModelBucket"]) == ("slides-of-2025", "models-of-2025")
    assert brought.function("ProdClassifier")["Environment"]["Variables"]["GIEMSA_INPUT_BUCKET"] == "slides-of-2025"
    for rule, bucket in [("UploadRule", "slides-of-2025"), ("ModelRule", "models-of-2025")]:
        pattern = json.loads(boto3.client("events").describe_rule(Name=brought.id(rule))["EventPattern"])
        assert pattern["detail"]["bucket"]["name"] == [bucket]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_buckets_are_private_encrypted_and_reached_by_tls_only(stack, bucket):
    s3, name = boto3.client("s3"), stack.id(bucket)
    block = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    assert len(block) == 4 and all(block.values()), block
    (rule,) = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    denied = [statement for statement in stack.bucket_policy(bucket)["Statement"] if statement["Effect"] == "Deny"]
    (tls,) = denied
    assert (tls["Principal"], tls["Action"], tls["Condition"]) == (
        "*", "s3:*", {"Bool": {"aws:SecureTransport": "false"}},
    )
    assert tls["Resource"] == [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]


def test_images_models_and_results_are_kept(stack):
    s3 = boto3.client("s3")
    for bucket in ["InputBucket", "ModelBucket", "ResultsBucket"]:
        assert s3.get_bucket_versioning(Bucket=stack.id(bucket))["Status"] == "Enabled", bucket
        for rule in s3.get_bucket_lifecycle_configuration(Bucket=stack.id(bucket))["Rules"]:
            # Nothing that is current is ever deleted, but Athena's answers; nor any version of an image or a model.
            expires = [key for key in rule if key in ("Expiration", "Transitions", "NoncurrentVersionExpiration")]
            if bucket != "ResultsBucket":
                assert expires == [], (bucket, rule)
            elif rule["Filter"]["Prefix"] != "athena/":
                assert "Expiration" not in rule, rule
        assert any(
            "AbortIncompleteMultipartUpload" in rule
            for rule in s3.get_bucket_lifecycle_configuration(Bucket=stack.id(bucket))["Rules"]
        )


def test_the_page_may_send_to_the_input_bucket(stack):
    cors = boto3.client("s3").get_bucket_cors(Bucket=stack.id("InputBucket"))["CORSRules"]
    (rule,) = cors
    assert rule["AllowedOrigins"] == [stack.outputs["DashboardUrl"].rstrip("/")]
    assert ("PUT" in rule["AllowedMethods"], rule["ExposeHeaders"]) == (True, ["ETag"])


@pytest.mark.parametrize("stage", STAGES)
def test_an_upload_goes_to_the_queue_of_each_stage_and_is_not_lost_on_the_way(stack, stage):
    queue = stack.queue(f"{stage.title()}Queue")
    dead = stack.queue(f"{stage.title()}DeadLetterQueue")
    (target,) = [target for target in stack.targets["UploadRule"] if target["Id"] == stage]
    assert (target["Arn"], target["DeadLetterConfig"]) == (queue["QueueArn"], {"Arn": dead["QueueArn"]})
    assert json.loads(queue["RedrivePolicy"]) == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 5}
    assert "RedrivePolicy" not in dead
    assert {int(it["MessageRetentionPeriod"]) for it in (queue, dead)} == {14 * 24 * 3600}
    assert {it["SqsManagedSseEnabled"] for it in (queue, dead)} == {"true"}
    classifier = stack.function(f"{stage.title()}Classifier")
    assert int(queue["VisibilityTimeout"]) >= 6 * classifier["Timeout"]
    rule = boto3.client("events").describe_rule(Name=stack.id("UploadRule"))
    for it in (queue, dead):
        policy = json.loads(it["Policy"])
        (allowed,) = [statement for statement in policy["Statement"] if statement["Effect"] == "Allow"]
        assert (allowed["Principal"], allowed["Action"]) == ({"Service": "events.amazonaws.com"}, "sqs:SendMessage")
        assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": rule["Arn"]}}
        assert it["QueueArn"] in allowed["Resource"]
        (denied,) = [statement for statement in policy["Statement"] if statement["Effect"] == "Deny"]
        assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("stage", STAGES)
def test_the_classifier_takes_its_queue_message_by_message(stack, stage):
    mapping = stack.mappings[stack.id(f"{stage.title()}Queue").rsplit("/", 1)[1]]
    classifier = stack.function(f"{stage.title()}Classifier")
    assert mapping["FunctionArn"] == classifier["FunctionArn"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert (mapping["State"], mapping["BatchSize"], mapping["MaximumBatchingWindowInSeconds"]) == ("Enabled", 10, 1)
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 10}


def test_nothing_else_takes_messages_from_the_queues(stack):
    assert sorted(stack.mappings) == sorted(stack.id(f"{stage.title()}Queue").rsplit("/", 1)[1] for stage in STAGES)


def test_rules_hear_of_every_upload_and_of_models(stack):
    events = boto3.client("events")
    uploads, models = (events.describe_rule(Name=stack.id(rule)) for rule in ["UploadRule", "ModelRule"])
    assert (uploads["State"], models["State"]) == ("ENABLED", "ENABLED")
    created = {"source": ["aws.s3"], "detail-type": ["Object Created"]}
    # No filter of keys: what is not an image is answered too, as rejected.
    assert json.loads(uploads["EventPattern"]) == created | {"detail": {"bucket": {"name": [stack.id("InputBucket")]}}}
    assert json.loads(models["EventPattern"]) == created | {
        "detail": {"bucket": {"name": [stack.id("ModelBucket")]}, "object": {"key": [{"suffix": "/model.onnx"}]}},
    }


def test_the_gate_is_invoked_and_its_failures_are_set_aside(stack):
    client, gate = boto3.client("lambda"), stack.function("Gate")
    dead = stack.queue("GateDeadLetterQueue")["QueueArn"]
    (target,) = stack.targets["ModelRule"]
    assert (target["Arn"], target["DeadLetterConfig"]) == (gate["FunctionArn"], {"Arn": dead})
    said = client.get_function_event_invoke_config(FunctionName=gate["FunctionName"])
    assert (said["MaximumRetryAttempts"], said["DestinationConfig"]["OnFailure"]) == (2, {"Destination": dead})
    rule = boto3.client("events").describe_rule(Name=stack.id("ModelRule"))["Arn"]
    (allowed,) = json.loads(client.get_policy(FunctionName=gate["FunctionName"])["Policy"])["Statement"]
    assert (allowed["Action"], allowed["Principal"]) == ("lambda:InvokeFunction", {"Service": "events.amazonaws.com"})
    assert allowed["Condition"] == {"ArnLike": {"AWS:SourceArn": rule}}


def test_functions_run_on_their_own_role_with_names_that_are_there(stack):
    there = {made["PhysicalResourceId"] for made in stack.resources.values()}
    roles = {}
    for name in stack.of_type("AWS::Lambda::Function"):
        function = stack.function(name)
        assert (function["Runtime"], function["Architectures"], function["Handler"]) == (
            "provided.al2023", ["arm64"], "bootstrap",
        )
        assert (function["MemorySize"], function["TracingConfig"]) == (1769, {"Mode": "Active"})
        roles[function["Role"].rsplit("/", 1)[1]] = name
        for variable, value in function["Environment"]["Variables"].items():
            if variable.endswith(("_BUCKET", "_TABLE")):
                assert value in there, (name, variable, value)
            assert "${" not in value, (name, variable, value)
    assert roles == {stack.id(f"{name}Role"): name for name in stack.of_type("AWS::Lambda::Function")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_backfill_has_its_own_concurrency_and_live_uploads_lose_none(stack, stage):
    concurrency = lambda name: boto3.client("lambda").get_function_concurrency(FunctionName=stack.id(name)).get(
        "ReservedConcurrentExecutions"
    )
    assert concurrency(f"{stage.title()}Backfill") == 10
    # Reserved here, messages that were never handled would count as failed.
    assert concurrency(f"{stage.title()}Classifier") is None


def test_every_statement_of_a_role_names_resources_of_this_stack(stack):
    iam = boto3.client("iam")
    there = {made["PhysicalResourceId"].rsplit("/", 1)[-1] for made in stack.resources.values() if made["PhysicalResourceId"]}
    for role in stack.of_type("AWS::IAM::Role").values():
        (policy,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        # moto answers with Python's text of it, where IAM has JSON.
        document = ast.literal_eval(iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"])
        for statement in document["Statement"]:
            resources = statement["Resource"]
            for resource in [resources] if isinstance(resources, str) else resources:
                if statement["Sid"] == "Trace":
                    assert resource == "*"
                    continue
                # arn:aws:s3:::NAME/key, arn:aws:dynamodb:…:table/NAME/index/x, arn:aws:logs:…:log-group:NAME, …
                assert set(re.split("[:/]", resource)) & there, (role, statement["Sid"], resource)


def test_the_table_has_the_keys_of_the_template_and_can_be_set_back(stack, template):
    client, name = boto3.client("dynamodb"), stack.id("Table")
    table = client.describe_table(TableName=name)["Table"]
    properties = template["Resources"]["Table"]["Properties"]
    assert (table["KeySchema"], table["BillingModeSummary"]["BillingMode"]) == (
        properties["KeySchema"], "PAY_PER_REQUEST",
    )
    shape = lambda index: (index["IndexName"], index["KeySchema"], index["Projection"])
    assert sorted(map(shape, table["GlobalSecondaryIndexes"]), key=str) == (
        sorted(map(shape, properties["GlobalSecondaryIndexes"]), key=str)
    )
    backups = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


def test_without_a_token_only_the_page_answers(stack):
    client, api = boto3.client("apigatewayv2"), stack.id("DashboardApi")
    routes = client.get_routes(ApiId=api)["Items"]
    signed = {route["RouteKey"]: route.get("AuthorizerId") for route in routes if route["AuthorizationType"] == "JWT"}
    assert {key.split()[1] for key in signed} == {"/api/{proxy+}"}
    assert set(signed.values()) == {stack.id("SignIn")}
    free = {route["RouteKey"] for route in routes if route["AuthorizationType"] == "NONE"}
    assert free == {"GET /", "GET /{file}"} and len(free) + len(signed) == len(routes)
    sign_in = client.get_authorizer(ApiId=api, AuthorizerId=stack.id("SignIn"))
    variables = stack.function("Dashboard")["Environment"]["Variables"]
    assert sign_in["JwtConfiguration"] == {
        "Issuer": variables["GIEMSA_OIDC_ISSUER"], "Audience": [variables["GIEMSA_OIDC_CLIENT_ID"]],
    }
    assert variables["GIEMSA_OIDC_ISSUER"].endswith(f"/{stack.id('UserPool')}")
    integration = client.get_integration(ApiId=api, IntegrationId=stack.id("DashboardIntegration"))
    assert (integration["IntegrationUri"], integration["PayloadFormatVersion"]) == (
        stack.function("Dashboard")["FunctionArn"], "2.0",
    )
    assert {route["Target"] for route in routes} == {f"integrations/{stack.id('DashboardIntegration')}"}
    (served,) = client.get_stages(ApiId=api)["Items"]
    assert (served["StageName"], served["AutoDeploy"]) == ("$default", True)


def test_people_come_by_invitation_and_pages_keep_no_secret(stack):
    client, pool = boto3.client("cognito-idp"), stack.id("UserPool")
    said = client.describe_user_pool(UserPoolId=pool)["UserPool"]
    assert said["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"] is True
    page = client.describe_user_pool_client(UserPoolId=pool, ClientId=stack.id("UserPoolClient"))["UserPoolClient"]
    assert "ClientSecret" not in page
    assert (page["AllowedOAuthFlows"], page["CallbackURLs"]) == (["code"], [stack.outputs["DashboardUrl"]])


def test_athena_reads_the_results_where_they_are_written(stack):
    glue, athena = boto3.client("glue"), boto3.client("athena")
    results, database = stack.id("ResultsBucket"), stack.id("ResultsDatabase")
    table = glue.get_table(DatabaseName=database, Name=stack.id("ResultsTable"))["Table"]
    assert table["StorageDescriptor"]["Location"] == f"s3://{results}/results/"
    assert [key["Name"] for key in table["PartitionKeys"]] == ["stage", "date"]
    assert table["Parameters"]["storage.location.template"] == (
        f"s3://{results}/results/stage=${{stage}}/date=${{date}}/"
    )
    group = athena.get_work_group(WorkGroup=stack.outputs["Workgroup"])["WorkGroup"]
    assert group["Configuration"]["ResultConfiguration"]["OutputLocation"] == f"s3://{results}/athena/"
    for query in stack.of_type("AWS::Athena::NamedQuery").values():
        said = athena.get_named_query(NamedQueryId=query)["NamedQuery"]
        assert (said["Database"], said["WorkGroup"]) == (database, stack.outputs["Workgroup"])


def test_alarms_watch_what_is_there_and_tell_someone(stack):
    alarms = of_all_pages(boto3.client("cloudwatch"), "describe_alarms", "MetricAlarms")
    alarms = {alarm["AlarmName"]: alarm for alarm in alarms}
    topic = stack.id("AlarmTopic")
    (subscription,) = boto3.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert subscription["Endpoint"] == PARAMETERS["AlarmEmail"]
    there = {made["PhysicalResourceId"].rsplit("/", 1)[-1] for made in stack.resources.values()}
    for name, made in stack.of_type("AWS::CloudWatch::Alarm").items():
        alarm = alarms[made]
        assert (alarm["AlarmActions"], alarm["OKActions"]) == ([topic], [topic]), name
        metrics = [alarm] + [metric["MetricStat"]["Metric"] for metric in alarm.get("Metrics", []) if "MetricStat" in metric]
        for dimension in [dimension for metric in metrics for dimension in metric.get("Dimensions", [])]:
            if dimension["Name"] in ("QueueName", "TableName", "FunctionName"):
                assert dimension["Value"] in there, (name, dimension)
        anchor = re.search(r"docs/runbook\.md#([a-z-]+)$", alarm["AlarmDescription"])
        assert anchor, f"{name} does not say what to do"
        headings = re.findall(r"^#+ (.+)$", (PROJECT / "docs/runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor[1] in {re.sub("[^a-z0-9 -]", "", text.lower()).replace(" ", "-") for text in headings}, anchor[1]
