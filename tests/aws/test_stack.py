import boto3

def test_it(stack, template):
    print(len(template["Resources"]), len(stack.resources))
    print(set(template["Resources"]) - set(stack.resources))
    print(stack.outputs)
