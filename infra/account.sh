# What deploy and destroy share; sourced, not run. It never changes anything. Afterwards $aws answers, and account, region
# and stack are known.

say() { printf '%s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$program" "$1" >&2
    shift
    for line in "$@"; do printf '    %s\n' "$line" >&2; done
    exit 1
}

# Whether the answer to a question is yes. No answer, as of a script, is no.
asked() {
    local answer=
    printf '%s [y/N] ' "$1"
    read -r answer || true
    [ -t 0 ] || printf '\n'
    case $answer in y | Y | yes) ;; *) return 1 ;; esac
}

find_account() {
    aws=${AWS:-aws}
    command -v "$aws" >/dev/null || fail "the aws client is not installed ($aws is no command); install it, for example with" \
        'make check        # puts it into target/tools/venv, from where make deploy takes it' \
        'pip install awscli'
    region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$("$aws" configure get region 2>/dev/null || true)}}
    [ -n "$region" ] || fail 'no region is set; expected the one that images shall stay in, for example' \
        'export AWS_REGION=eu-central-1'
    [[ $region =~ ^[a-z]{2}(-[a-z]+)+-[0-9]+$ ]] ||
        fail "the region is \"$region\"; expected a name such as eu-central-1 (AWS_REGION, or aws configure)"
    export AWS_REGION=$region AWS_DEFAULT_REGION=$region AWS_PAGER=
    local said
    if ! said=$("$aws" sts get-caller-identity --query Account --output text 2>&1); then
        case $said in
            *"Could not connect to the endpoint"* | *"Could not resolve"*)
                fail "AWS does not answer in the region \"$region\"; is there such a region, and a network? It says:" "$said" ;;
            *)
                fail 'AWS does not know who you are. Sign in with one of' 'aws configure' 'aws sso login' \
                    "or set AWS_PROFILE. It says:" "$said" ;;
        esac
    fi
    account=$said
    stack=${STACK:-giemsa}
    [[ $stack =~ ^[A-Za-z][A-Za-z0-9-]{0,60}$ ]] ||
        fail "STACK is \"$stack\"; expected up to 61 letters, digits and hyphens, beginning with a letter"
}

# State of the stack, or nothing where there is none.
stack_state() {
    local said
    if said=$("$aws" cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].StackStatus' --output text 2>&1)
    then
        say "$said"
    else
        case $said in *"does not exist"*) ;; *) fail "the stack $stack cannot be looked at. AWS says:" "$said" ;; esac
    fi
}

# What went wrong with the stack, in AWS's words.
failures() {
    "$aws" cloudformation describe-stack-events --stack-name "$stack" --output text --max-items 200 --query \
        'StackEvents[?ends_with(ResourceStatus, `FAILED`)].[LogicalResourceId, ResourceStatusReason]' >&2 || true
}
