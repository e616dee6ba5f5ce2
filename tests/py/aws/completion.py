"""What moto's CloudFormation does not make, or makes without half of its properties: made by the service's own API instead.

moto knows the services, but its CloudFormation knows few types of resources. Each type here takes the properties as moto has
resolved them, and asks the service for the resource with boto3, which checks every name and every type of value. Invariant:
a property that is not understood here fails the stack, so that none is dropped in silence.
"""

import json
import types

import boto3
from moto.awslambda.models import LambdaFunction
from moto.awslambda.utils import get_backend
from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.dynamodb.models.table import Table
from moto.s3.models import FakeBucket


def nothing_left(what, properties):
    if properties:
        raise ValueError(f"{what} has properties that tests/py/aws/completion.py does not know: {sorted(properties)}")


# --- types that moto's CloudFormation does not know: client, name and properties to the physical id


def bucket_policy(client, _name, properties):
    client.put_bucket_policy(Bucket=properties["Bucket"], Policy=json.dumps(properties["PolicyDocument"]))
    return properties["Bucket"]


def queue_policy(client, name, properties):
    for url in properties["Queues"]:
        client.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(properties["PolicyDocument"])})
    return name


def topic_policy(client, name, properties):
    policy = json.dumps(properties["PolicyDocument"])
    for topic in properties["Topics"]:
        client.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
    return name


def user_pool(client, _name, properties):
    # Second factors are turned on by a request of its own.
    assert properties.pop("EnabledMfas") == ["SOFTWARE_TOKEN_MFA"]
    factors = {"MfaConfiguration": properties.pop("MfaConfiguration"), "SoftwareTokenMfaConfiguration": {"Enabled": True}}
    pool = client.create_user_pool(PoolName=properties.pop("UserPoolName"), **properties)["UserPool"]["Id"]
    client.set_user_pool_mfa_config(UserPoolId=pool, **factors)
    return pool


def domain(client, _name, properties):
    client.create_user_pool_domain(**properties)
    return properties["Domain"]


def work_group(client, _name, properties):
    # Only of interest when the stack goes.
    properties.pop("RecursiveDeleteOption")
    configuration = properties.pop("WorkGroupConfiguration")
    client.create_work_group(Configuration=configuration, **properties)
    return properties["Name"]


def alarm(client, name, properties):
    client.put_metric_alarm(AlarmName=name, **properties)
    return name


def database(client, _name, properties):
    client.create_database(**properties)
    return properties["DatabaseInput"]["Name"]


def table_of_results(client, _name, properties):
    client.create_table(**properties)
    return properties["TableInput"]["Name"]


def stage(client, _name, properties):
    client.create_stage(**properties)
    return properties["StageName"]


def event_invoke_config(client, name, properties):
    # An own name for the version without a number, which the API takes for granted.
    assert properties.pop("Qualifier") == "$LATEST", properties
    destination = properties["DestinationConfig"]
    destination["OnFailure"] = {"Destination": destination["OnFailure"]["Destination"]}
    client.put_function_event_invoke_config(**properties)
    return name


def made_by(operation, *answer):
    """The resource that `operation` makes of the properties as they are, and where its id is in the answer."""

    def make(client, _name, properties):
        said = getattr(client, operation)(**properties)
        for key in answer:
            said = said[key]
        return said

    return make


COMPLETED = {
    "AWS::S3::BucketPolicy": ("s3", bucket_policy),
    "AWS::SQS::QueuePolicy": ("sqs", queue_policy),
    "AWS::SNS::TopicPolicy": ("sns", topic_policy),
    "AWS::SNS::Subscription": ("sns", made_by("subscribe", "SubscriptionArn")),
    "AWS::ApiGatewayV2::Api": ("apigatewayv2", made_by("create_api", "ApiId")),
    "AWS::ApiGatewayV2::Stage": ("apigatewayv2", stage),
    "AWS::ApiGatewayV2::Integration": ("apigatewayv2", made_by("create_integration", "IntegrationId")),
    "AWS::ApiGatewayV2::Authorizer": ("apigatewayv2", made_by("create_authorizer", "AuthorizerId")),
    "AWS::ApiGatewayV2::Route": ("apigatewayv2", made_by("create_route", "RouteId")),
    "AWS::Cognito::UserPool": ("cognito-idp", user_pool),
    "AWS::Cognito::UserPoolClient": ("cognito-idp", made_by("create_user_pool_client", "UserPoolClient", "ClientId")),
    "AWS::Cognito::UserPoolDomain": ("cognito-idp", domain),
    "AWS::Glue::Database": ("glue", database),
    "AWS::Glue::Table": ("glue", table_of_results),
    "AWS::Athena::WorkGroup": ("athena", work_group),
    "AWS::Athena::NamedQuery": ("athena", made_by("create_named_query", "NamedQueryId")),
    "AWS::CloudWatch::Alarm": ("cloudwatch", alarm),
    "AWS::Lambda::EventInvokeConfig": ("lambda", event_invoke_config),
}


# --- types that moto makes without some of their properties


def bucket(name, properties):
    client = boto3.client("s3")
    # moto has made it, with this.
    properties.pop("BucketEncryption")
    if versioning := properties.pop("VersioningConfiguration", None):
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration=versioning)
    client.put_public_access_block(
        Bucket=name, PublicAccessBlockConfiguration=properties.pop("PublicAccessBlockConfiguration")
    )
    if notifications := properties.pop("NotificationConfiguration", None):
        assert notifications == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}, notifications
        client.put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration={"EventBridgeConfiguration": {}}
        )
    rules = [lifecycle_rule(rule) for rule in properties.pop("LifecycleConfiguration")["Rules"]]
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    if cors := properties.pop("CorsConfiguration", None):
        names = {"ExposedHeaders": "ExposeHeaders", "MaxAge": "MaxAgeSeconds"}
        rules = [{names.get(key, key): value for key, value in rule.items()} for rule in cors["CorsRules"]]
        client.put_bucket_cors(Bucket=name, CORSConfiguration={"CORSRules": rules})
    # moto fails on a log bucket whose policy has the principal "*": it reads each principal as a list of services.
    properties.pop("LoggingConfiguration", None)
    nothing_left("a bucket", properties)


def lifecycle_rule(rule):
    rule = dict(rule)
    made = {"ID": rule.pop("Id"), "Status": rule.pop("Status"), "Filter": {"Prefix": rule.pop("Prefix", "")}}
    if days := rule.pop("ExpirationInDays", None):
        made["Expiration"] = {"Days": int(days)}
    for same in ["AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration"]:
        if same in rule:
            made[same] = rule.pop(same)
    nothing_left("a lifecycle rule", rule)
    return made


def table(name, properties):
    recovery = properties.pop("PointInTimeRecoverySpecification")
    boto3.client("dynamodb").update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=recovery)
    for made in ["AttributeDefinitions", "BillingMode", "GlobalSecondaryIndexes", "KeySchema"]:
        properties.pop(made)
    nothing_left("the table", properties)


def make_function(name, properties):
    client = boto3.client("lambda")
    reserved = properties.pop("ReservedConcurrentExecutions", None)
    properties["Tags"] = {tag["Key"]: tag["Value"] for tag in properties["Tags"]}
    properties["MemorySize"] = int(properties["MemorySize"])
    client.create_function(FunctionName=name, **properties)
    if reserved is not None:
        client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=reserved)


# --- how moto is told


def declare(kind, name_property, create):
    """A type for moto's CloudFormation; the last one that is declared of a type is taken."""
    body = {
        "cloudformation_type": staticmethod(lambda: kind),
        "cloudformation_name_type": staticmethod(lambda: name_property),
        "create_from_cloudformation_json": classmethod(lambda cls, *arguments, **_: create(cls, *arguments)),
    }
    return types.new_class(kind.replace(":", ""), (CloudFormationModel,), {}, lambda space: space.update(body))


def declare_completed(kind, service, make):
    def create(cls, name, resource, _account, _region):
        made = cls()
        made.type = kind
        made.physical_resource_id = make(boto3.client(service), name, resource["Properties"])
        return made

    declare(kind, "", create)


def declare_finished(kind, model, finish):
    def create(_cls, name, resource, account, region):
        made = model.create_from_cloudformation_json(name, json.loads(json.dumps(resource)), account, region)
        finish(name, resource["Properties"])
        return made

    finished = declare(kind, model.cloudformation_name_type(), create)
    finished.has_cfn_attr = model.has_cfn_attr


def declare_function(kind):
    def create(_cls, name, resource, account, region):
        make_function(name, resource["Properties"])
        return get_backend(account, region).get_function(name)

    declare(kind, "FunctionName", create).has_cfn_attr = LambdaFunction.has_cfn_attr


def leave_out_no_value():
    """moto leaves a null in a list where the template says AWS::NoValue."""
    of_moto = parsing.clean_json

    def corrected(value, resources):
        cleaned = of_moto(value, resources)
        return [inner for inner in cleaned if inner is not None] if isinstance(cleaned, list) else cleaned

    parsing.clean_json = corrected


def of_moto():
    """The types that moto makes by itself."""
    return {model.cloudformation_type() for model in CloudFormationModel.__subclasses__()}


def complete():
    """Tells moto of all types here. Returns the types that it knew before."""
    known = of_moto()
    leave_out_no_value()
    for kind, (service, make) in COMPLETED.items():
        declare_completed(kind, service, make)
    declare_finished("AWS::S3::Bucket", FakeBucket, bucket)
    declare_finished("AWS::DynamoDB::Table", Table, table)
    declare_function("AWS::Lambda::Function")
    for remembered in [parsing.get_model_list, parsing.get_model_map, parsing.get_name_type_map]:
        remembered.cache_clear()
    return known

